"""Exported graphs: the same numbers as torch at any batch, and nothing in them that TensorRT's parser refuses."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from discl.engine.backends.exported import ExportedFolder
from discl.engine.backends.onnx import OnnxBackend
from discl.engine.export import onnx as exporter
from discl.engine.export.manifest import read_manifest
from discl.engine.export.write import export_model, staged
from discl.errors import DisclError, ModelError
from tests.engine.exports import CPU, random_inputs, tiny_export
from tests.tiny import tiny_lcm, tiny_sd

PARTS = ("unet", "vae_encoder", "vae_decoder", "clip_image", "clip_text")
OPERATORS = json.loads((Path(__file__).parent.parent / "data" / "tensorrt_operators.json").read_text())
TENSORRT = {1: "FP32", 10: "FP16", 16: "BF16", 6: "INT32", 7: "INT64", 9: "BOOL"}  # by onnx.TensorProto's numbers
DATA_DEPENDENT = {"NonZero", "Unique", "Compress", "NonMaxSuppression", "Loop", "If", "Scan"}


@pytest.mark.parametrize("name", PARTS)
def test_onnx_runtime_computes_what_torch_does(name):
    tiny, seed = tiny_export(), random.randrange(1000)
    print("seed", seed)
    expected, part = tiny.parts()[name], tiny.parts()[name]
    run = OnnxBackend(tiny.onnx, CPU).function(part)
    for rows in (1, 3, 16):
        inputs = random_inputs(expected, rows, seed)
        with torch.no_grad():
            torch.testing.assert_close(run(*inputs), expected.module(*inputs), rtol=1e-4, atol=1e-4)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("vae_encoder", "vae_decoder")]


@pytest.mark.parametrize("name", ["unet", *SLOW])
def test_half_precision_stands_in_the_file(tmp_path, name):
    """Of the parts that an export has in float16; the CLIP towers stay in float32."""
    folder = tiny_sd(tmp_path / "sd", vae_levels=3)
    from discl.engine.parts import make_traceable, model_parts
    from discl.engine.pretrained import load_model
    from discl.engine.reproducible import make_plain

    part = next(part for part in model_parts(load_model(folder, CPU, torch.float16)) if part.name == name)
    exact = next(part for part in model_parts(load_model(folder, CPU, torch.float32)) if part.name == name)
    make_plain(part.module)
    make_traceable(part.module)
    files = exporter.write_onnx(part, random_inputs(part, 2, 0, (32, 32)), tmp_path / name)
    graph = onnx.load(files[0]).graph
    large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) > 64]  # constants are smaller
    assert large and all(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in large)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"])
    for rows in (1, 3, 16):
        inputs = random_inputs(part, rows, rows, (32, 32))
        given = {name: tensor.numpy() for name, tensor in zip(part.inputs, inputs, strict=True)}
        with torch.no_grad():
            made = exact.module(*(tensor.float() for tensor in inputs))
        expected = made if isinstance(made, tuple) else (made,)  # the encoder has two moments
        result = tuple(torch.from_numpy(values).float() for values in session.run(None, given))
        torch.testing.assert_close(result, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", PARTS)
def test_tensorrt_takes_every_operator_and_type_and_shape(name):
    model = onnx.load(tiny_export().onnx / f"{name}.onnx")
    (opset,) = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    assert OPERATORS["opset"][0] <= opset <= OPERATORS["opset"][1]
    assert not model.functions and all(node.domain in ("", "ai.onnx") for node in model.graph.node)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in [*inferred.value_info, *inferred.input]}
    kinds |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for node in inferred.node:
        assert node.op_type in OPERATORS["operators"], node.op_type
        assert node.op_type not in DATA_DEPENDENT, node.op_type
        found = {TENSORRT.get(kinds[value]) for value in node.input if value in kinds}
        assert None not in found, (node.op_type, found)
        if node.op_type not in ("Reshape", "Expand", "Slice", "Where", "Gather", "Pow", "Resize", "ConstantOfShape"):
            assert found <= {*OPERATORS["operators"][node.op_type], "INT64"}, (node.op_type, found)
    for value in [*inferred.input, *inferred.output]:
        batch, *rest = value.type.tensor_type.shape.dim
        assert batch.dim_param and all(dim.dim_value > 0 for dim in rest), value.name
    assert not [value for value in inferred.value_info if "Random" in value.name]


def test_the_manifest_says_what_the_files_hold():
    tiny = tiny_export()
    manifest = read_manifest(tiny.onnx, "onnx")
    assert [part.part for part in manifest.parts] == list(PARTS)
    assert manifest.facts["sizes"] == [[64, 64]] and manifest.facts["opset"] == exporter.OPSET
    assert (
        manifest.facts["exporter"].startswith("torch.onnx") and manifest.facts["versions"]["torch"] in torch.__version__
    )
    assert manifest.facts["model"]["digest"] == tiny.parts()["unet"].digest
    for part in manifest.parts:
        graph = onnx.load(tiny.onnx / part.file).graph
        for specs, values in ((part.inputs, graph.input), (part.outputs, graph.output)):
            assert [spec.name for spec in specs] == [value.name for value in values]
            for spec, value in zip(specs, values, strict=True):
                assert list(spec.shape) == [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
                number = onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=spec.torch_dtype).numpy().dtype)
                assert number == value.type.tensor_type.elem_type


@pytest.mark.slow
def test_large_weights_stand_in_one_file_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "LARGEST", 1000)
    folder = tiny_lcm(tmp_path / "lcm")
    manifest = export_model("onnx", str(folder), tmp_path / "out", sizes=[(64, 64), (48, 64)])
    assert [part.file for part in manifest.of("unet")] == ["unet.onnx", "unet-48x64.onnx"]
    for part in manifest.of("unet"):
        assert set(part.digests) == {part.file, f"{part.file}.data"}
    again = OnnxBackend(tmp_path / "out", CPU)
    from discl.engine.parts import unet_part
    from discl.engine.pretrained import load_model

    expected, part = (unet_part(load_model(folder, CPU, torch.float32)) for _ in range(2))
    run = again.function(part)
    for size in ((64, 64), (48, 64)):
        inputs = random_inputs(expected, 3, 5, size)
        with torch.no_grad():
            torch.testing.assert_close(run(*inputs), expected.module(*inputs), rtol=1e-4, atol=1e-4)


def test_an_export_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), staged(tmp_path / "out") as folder:
        (folder / "unet.onnx").write_bytes(b"half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DisclError, match="holds no export"), staged(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_what_cannot_be_exported_is_said(tmp_path):
    tiny = tiny_export()
    with pytest.raises(DisclError, match="60x64: this model makes sizes that are multiples of 8"):
        export_model("onnx", tiny.model, tmp_path / "out", sizes=[(60, 64)])
    with pytest.raises(
        DisclError, match="dtype='int8' is not available in this version: choose one of float32, float16"
    ):
        export_model("onnx", tiny.model, tmp_path / "out", dtype="int8")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["cut", "gone", "other format", "not json", "outside", "dtype", "digests", "facts"])
def test_a_damaged_folder_is_refused_with_the_reason(tmp_path, fault):
    folder = Path(shutil.copytree(tiny_export().onnx, tmp_path / "out"))
    manifest = folder / "manifest.json"
    if fault == "cut":
        (folder / "unet.onnx").write_bytes((folder / "unet.onnx").read_bytes()[:-1])
    elif fault == "gone":
        (folder / "vae_decoder.onnx").unlink()
    elif fault == "other format":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    elif fault == "outside":
        manifest.write_text(manifest.read_text().replace('"unet.onnx"', '"../unet.onnx"'))
    elif fault == "not json":
        manifest.write_text("{")
    else:
        held = json.loads(manifest.read_text())
        part = held["parts"][0]
        {"dtype": part["inputs"][0], "digests": part, "facts": held}[fault][fault] = "float99"
        manifest.write_text(json.dumps(held))
    expected = {
        "cut": "unet.onnx is not what was exported",
        "gone": "vae_decoder.onnx is missing",
        "other format": "format 99",
        "not json": "cannot be read",
        "dtype": r"manifest\.json cannot be read .*torch has no dtype 'float99'",
        "digests": r"manifest\.json cannot be read",
        "facts": r"manifest\.json cannot be read",
        "outside": "outside of its folder",
    }[fault]
    with pytest.raises(ModelError, match=expected) as refusal:
        ExportedFolder("onnx", folder)
    assert "discl export onnx" in str(refusal.value)
