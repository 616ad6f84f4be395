"""The TensorRT backend's whole way, build and run, against a stand-in that knows the real API of two versions.

The last tests are for real libraries and a GPU: `pytest -m tensorrt`.
"""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from discl import Engine
from discl.engine.backends.tensorrt import TensorRTBackend
from discl.engine.clip_checkpoint import load_clip
from discl.engine.export import write
from discl.engine.export.manifest import read_manifest
from discl.engine.export.write import export_model
from discl.engine.parts import unet_part
from discl.engine.pretrained import load_model
from discl.engine.scorer import Scorer
from discl.engine.tensorrt_plan import batch_profile, load_tensorrt
from discl.errors import ModelError, RunFailed
from tests.engine.exports import CPU, random_inputs, tiny_export
from tests.engine.oracle import assert_close_pixels
from tests.engine.tensorrt_stub import make_tensorrt
from tests.engine.test_backend_onnx import requests, run

SLOTS = 4


@pytest.fixture(params=["10.16", "11.4"])
def trt(request, monkeypatch):
    return installed(monkeypatch, request.param)


def installed(monkeypatch, version: str):
    """The stand-in in place of the libraries; a CPU passes for a GPU, and ONNX files come from the shared export."""
    exported = tiny_export().onnx  # before what writes it is replaced
    module = make_tensorrt(version)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    for place in ("discl.engine.export.write.require_gpu", "discl.engine.tensorrt_plan.require_gpu"):
        monkeypatch.setattr(place, lambda device: device)

    def copy(part, inputs, stem: Path) -> list[Path]:
        return [Path(shutil.copy(exported / f"{part.name}.onnx", stem.with_suffix(".onnx")))]

    monkeypatch.setattr(write, "write_onnx", copy)
    return module


def build(folder: Path, **options) -> list[dict]:
    tiny, events = tiny_export(), []
    export_model(
        "tensorrt", tiny.model, folder, tiny.clip, slots=SLOTS, device="cpu", on_event=events.append, **options
    )
    return events


@pytest.fixture
def engines(trt, tmp_path):
    build(tmp_path / "out")
    return tmp_path / "out"


def unet(folder: Path):
    """The backend's function of the tiny UNet, and inputs for it."""
    part = unet_part(load_model(tiny_export().model, CPU, torch.float32))
    return TensorRTBackend(folder, CPU).function(part), random_inputs(part, 8, seed=1)


def test_every_part_is_built_as_the_issue_of_a_plan_wants_it(trt, engines):
    record = trt.record
    assert record.builds == ["unet.onnx", "vae_encoder.onnx", "vae_decoder.onnx", "clip_image.onnx", "clip_text.onnx"]
    assert record.network_flags == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert record.workspace > 0 and record.level > 0
    for part, shapes in zip(read_manifest(engines, "tensorrt").parts, record.profiles, strict=True):
        assert set(shapes) == {spec.name for spec in part.inputs}
        for spec in part.inputs:
            expected = [(rows, *spec.shape) for rows in batch_profile(part.part, SLOTS)]
            assert [tuple(dims) for dims in shapes[spec.name]] == expected
    assert batch_profile("unet", SLOTS) == (1, 2 * SLOTS, 2 * SLOTS)


def test_the_engine_makes_exact_modes_images(trt, engines):
    exact = run(requests())
    tiny = tiny_export()
    backend = TensorRTBackend(engines, CPU)
    scorer = Scorer.from_pretrained(tiny.clip, batch=8, backend=backend)
    model = load_model(tiny.model, CPU, torch.float32)
    with Engine(model, scorer, device=CPU, slots=SLOTS, steps=10, backend=backend) as engine:
        ours = {sample.request.key: sample for sample in engine.run(requests())}
    for key, sample in ours.items():
        assert sample.status == "ok", sample.reason
        assert_close_pixels(sample.image, exact[key].image)
        np.testing.assert_allclose(sample.embedding, exact[key].embedding, atol=2e-3)
    assert trt.record.contexts == 5  # one for each part: one shape each


def test_a_shape_has_a_context_of_its_own_and_outputs_are_fresh(trt, engines):
    function, inputs = unet(engines)
    first = function(*inputs)
    kept, second = first.clone(), function(*(tensor.flip(0) for tensor in inputs))
    assert torch.equal(first, kept) and first.data_ptr() != second.data_ptr()
    torch.testing.assert_close(second.flip(0), first, rtol=0, atol=1e-5)
    function(*(tensor[:3] for tensor in inputs))
    function(*inputs)
    assert trt.record.contexts == 2
    assert [shape[0] for shape, _ in trt.record.runs] == [8, 8, 3, 8]


def test_more_rows_than_the_profile_has_are_refused(trt, engines):
    function, inputs = unet(engines)
    with pytest.raises(ModelError, match="does not take 16 rows: export with --slots"):
        function(*(torch.cat([tensor, tensor]) for tensor in inputs))


def test_engines_that_fit_are_kept_and_others_rebuilt(trt, engines, tmp_path, monkeypatch):
    before = {file: file.stat().st_mtime_ns for file in engines.glob("*.engine")}
    assert len(before) == 5
    build(engines)
    assert {file: file.stat().st_mtime_ns for file in engines.glob("*.engine")} == before
    damaged = next(engines.glob("vae_decoder-*.engine"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    trt.record.builds.clear()
    build(engines)
    assert trt.record.builds == ["vae_decoder.onnx"]
    assert trt.record.timing_caches[0] == b"timings" and len(trt.record.timing_caches[-1]) > len(b"timings")


def test_graphs_that_another_tool_has_changed_are_taken_as_they_are(trt, tmp_path):
    folder = Path(shutil.copytree(tiny_export().onnx, tmp_path / "onnx"))
    graph = onnx.load(folder / "unet.onnx")
    graph.doc_string = "quantised"
    onnx.save(graph, folder / "unet.onnx")
    build(tmp_path / "out", onnx=str(folder))
    assert onnx.load(tmp_path / "out" / "unet.onnx").doc_string == "quantised"
    function, inputs = unet(tmp_path / "out")
    assert function(*inputs).shape == inputs[0].shape
    build(tmp_path / "out", onnx=str(tiny_export().onnx))
    assert onnx.load(tmp_path / "out" / "unet.onnx").doc_string != "quantised"


def test_a_corrupt_timing_cache_is_begun_anew(trt, engines, caplog):
    (engines / "timing.cache").write_bytes(b"\0rubbish")
    next(engines.glob("unet-*.engine")).unlink()
    trt.record.timing_caches.clear()
    build(engines)
    assert trt.record.timing_caches == [b"timings"]
    assert "is not a timing cache" in caplog.text
    assert (engines / "timing.cache").read_bytes().startswith(b"timings")


@pytest.mark.parametrize("fault", ["bytes", "header", "none", "gpu", "version", "plan"])
def test_a_foreign_or_damaged_engine_is_refused_with_the_reason(trt, engines, fault, monkeypatch):
    file = next(engines.glob("unet-*.engine"))
    data = file.read_bytes()
    if fault == "bytes":
        file.write_bytes(data[:-1] + b"?")
        expected = "damaged .its bytes"
    elif fault == "header":
        file.write_bytes(b"?" + data)
        expected = "damaged .its first line"
    elif fault == "none":
        file.unlink()
        expected = "holds no engine of unet.onnx for this machine: build it"
    elif fault == "gpu":
        monkeypatch.setattr("discl.engine.tensorrt_plan.device_name", lambda device: "another card")
        expected = "it holds engines for gpu .* .here another card."
    elif fault == "version":
        trt.__version__ = "11.9.0"
        expected = "it holds engines for tensorrt .* .here 11.9.0."
    else:
        trt.faults.deserialize = True
        expected = "does not take the engine of unet.onnx .the plan's magic tag"
    with pytest.raises(ModelError, match=expected) as refusal:
        function, inputs = unet(engines)
        function(*inputs)
    assert "discl export tensorrt" in str(refusal.value)


def test_an_engine_of_another_model_is_refused(trt, engines):
    model = load_model(tiny_export().model, CPU, torch.float32)
    with pytest.raises(ModelError, match="of another model"):
        TensorRTBackend(engines, CPU).function(replace(unet_part(model), digest="0" * 32))


def test_a_graph_that_the_parser_refuses_names_its_errors(trt, tmp_path):
    trt.faults.parse = ("node 7: no importer for Foo", "node 9: bad shape")
    with pytest.raises(ModelError, match=r"cannot parse unet.onnx: node 7: no importer for Foo; node 9: bad shape"):
        build(tmp_path / "out")


def test_a_failed_build_says_what_tensorrt_said_and_keeps_the_rest(trt, engines):
    next(engines.glob("clip_text-*.engine")).unlink()
    trt.faults.build = True
    with pytest.raises(RunFailed, match=r"could not build clip_text.onnx: no tactic was found"):
        build(engines)
    assert len(list(engines.glob("*.engine"))) == 4 and not list(engines.glob(".*.engine*"))


def test_stopping_during_a_build_stops_it(trt, tmp_path):
    class Stopped(BaseException):
        pass

    def stop(event: dict) -> None:
        if event["event"] == "build":
            raise Stopped

    tiny = tiny_export()
    with pytest.raises(Stopped):
        export_model("tensorrt", tiny.model, tmp_path / "out", slots=SLOTS, device="cpu", on_event=stop)
    assert not list((tmp_path / "out").glob("*.engine"))


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ({"execute": "an illegal thing"}, RunFailed, "could not run unet.onnx .an illegal thing"),
        ({"execute": "CUDA out of memory"}, RuntimeError, "out of memory"),
        ({"context": True}, RuntimeError, "out of memory for a TensorRT context of unet.onnx .requested size"),
        ({"addresses": True}, RunFailed, "refuses the address of sample"),
    ],
)
def test_what_fails_at_run_time_is_said(trt, engines, fault, error, text):
    function, inputs = unet(engines)
    trt.faults.__dict__.update(fault)
    with pytest.raises(error, match=text):
        function(*inputs)


def test_the_stand_in_refuses_what_the_tables_lack(trt):
    with pytest.raises(AttributeError):
        trt.BuilderFlag.FP17  # noqa: B018
    with pytest.raises(AttributeError):
        trt.Calibrator  # noqa: B018
    if trt.__version__.startswith("11"):
        with pytest.raises(AttributeError):
            trt.BuilderFlag.FP16  # noqa: B018
        with pytest.raises(AttributeError):
            trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH  # noqa: B018
    config = object.__new__(trt.IBuilderConfig)
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1
    with pytest.raises(TypeError):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, pool=3)


def test_missing_libraries_and_a_cpu_are_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ModelError, match=r"pip install 'discl\[tensorrt\]'"):
        load_tensorrt()
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="TensorRT runs on NVIDIA GPUs"):
            Engine.from_pretrained(tiny_export().model, backend="tensorrt", exported=str(tmp_path))


@pytest.fixture(scope="module")
def on_device(tmp_path_factory):
    pytest.importorskip("tensorrt")
    tiny, folder = tiny_export(), tmp_path_factory.mktemp("engines")
    export_model("tensorrt", tiny.model, folder / "out", tiny.clip, slots=SLOTS)
    return folder / "out"


@pytest.mark.tensorrt
def test_parity_on_a_device(on_device):
    """TF32 is on in a strongly typed float32 network, so the gate is looser than exact mode's."""
    exact = run(requests(), device="cuda")
    ours = run(requests(), device="cuda", backend="tensorrt", exported=str(on_device))
    for key, sample in ours.items():
        assert_close_pixels(sample.image, exact[key].image, largest=8, mean=0.5)


@pytest.mark.tensorrt
def test_the_equivalence_gate_on_a_device(on_device):
    exact = run(requests(), device="cuda")
    ours = run(requests(), device="cuda", backend="tensorrt", exported=str(on_device))
    shifts = [ours[key].text_score - exact[key].text_score for key in exact]
    assert np.abs(shifts).max() < 0.01
    threshold = float(np.median([sample.text_score for sample in exact.values()]))
    flips = [(ours[key].text_score >= threshold) != (exact[key].text_score >= threshold) for key in exact]
    assert np.mean(flips) <= 0.1


@pytest.mark.tensorrt
def test_throughput_against_torch_is_measured(on_device):
    """The ratios are printed, not judged: `pytest -m tensorrt -s`; the full rows are `python -m benchmarks`'."""
    command = [sys.executable, "-m", "benchmarks", "engine", "--backend", "tensorrt", "--small"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert "tensorrt / torch " in done.stdout and "tensorrt / torch-compile" in done.stdout


@pytest.mark.tensorrt
def test_the_text_tower_on_a_device(on_device):
    device = torch.device("cuda")
    tiny = tiny_export()
    ours = Scorer(tiny.clip, load_clip(tiny.clip), device, batch=8, backend=TensorRTBackend(on_device, device))
    exact = Scorer(tiny.clip, load_clip(tiny.clip), device, batch=8)
    torch.testing.assert_close(ours.embed_texts(["a cat"]), exact.embed_texts(["a cat"]), rtol=0, atol=2e-3)
