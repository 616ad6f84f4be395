"""Packages compiled ahead of time: torch's numbers at any batch, without a compiler when they are run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from discl.engine.backends.aoti import AotiBackend, machine
from discl.engine.backends.exported import ExportedFolder
from discl.engine.clip_checkpoint import load_clip
from discl.engine.compile_cache import compiled_graphs
from discl.engine.export.aoti import write_aoti
from discl.engine.export.manifest import Manifest, exported_part
from discl.engine.export.write import export_model
from discl.engine.parts import clip_text_part, make_traceable
from discl.errors import ModelError
from tests.engine.exports import CPU, random_inputs, tiny_export
from tests.engine.oracle import assert_close_pixels
from tests.engine.test_backend_onnx import requests, run

FACTS = machine(CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The smallest part alone: compiling takes seconds."""
    folder = tmp_path_factory.mktemp("aoti")
    part = clip_text_part(load_clip(tiny_export().clip))
    make_traceable(part.module)
    inputs = random_inputs(part, 2, seed=0)
    files = write_aoti(part, inputs, folder / "clip_text")
    Manifest("aoti", FACTS, (exported_part(part, (64, 64), inputs, files),)).write(folder)
    return folder


def test_a_package_computes_what_torch_does_without_compiling(folder, monkeypatch):
    part = clip_text_part(load_clip(tiny_export().clip))
    monkeypatch.setattr(torch, "compile", None)
    before = compiled_graphs()
    run = AotiBackend(folder, CPU).function(part)
    for rows in (1, 3, 16, 80):
        inputs = random_inputs(part, rows, seed=rows)
        with torch.no_grad():
            torch.testing.assert_close(run(*inputs), part.module(*inputs), rtol=1e-4, atol=1e-4)
    assert compiled_graphs() == before


@pytest.mark.parametrize("fact", ["device", "torch"])
def test_a_package_for_another_machine_is_refused(folder, tmp_path, fact):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["facts"][fact] = "another"
    for file in folder.glob("*.pt2"):
        (tmp_path / file.name).hardlink_to(file)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"was compiled for .*another.*discl export aoti"):
        AotiBackend(tmp_path, CPU)


def test_what_is_no_package_is_refused(folder, tmp_path):
    part = clip_text_part(load_clip(tiny_export().clip))
    inputs = random_inputs(part, 2, seed=0)
    (tmp_path / "clip_text.pt2").write_bytes(b"not a package")
    Manifest("aoti", FACTS, (exported_part(part, (64, 64), inputs, [tmp_path / "clip_text.pt2"]),)).write(tmp_path)
    assert ExportedFolder("aoti", tmp_path).manifest.parts[0].part == "clip_text"
    with pytest.raises(ModelError, match=r"clip_text.pt2 cannot be loaded"):
        AotiBackend(tmp_path, CPU).function(part)(*inputs)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_engine_makes_exact_modes_images(tmp_path):
    tiny = tiny_export()
    export_model("aoti", tiny.model, tmp_path / "out", tiny.clip, device="cpu")
    exact = run(requests())
    options = {"backend": "aoti", "exported": str(tmp_path / "out")}
    ours, backwards = run(requests(), **options), run(requests()[::-1], **options)
    for key, sample in ours.items():
        assert sample.status == "ok", sample.reason
        assert_close_pixels(sample.image, exact[key].image)
        assert abs(sample.text_score - exact[key].text_score) < 1e-3
        np.testing.assert_array_equal(sample.image, backwards[key].image)


@pytest.mark.gpu
def test_the_engine_on_a_device(tmp_path):
    tiny = tiny_export()
    export_model("aoti", tiny.model, tmp_path / "out", tiny.clip, device="cuda")
    exact, options = run(requests(), device="cuda"), {"backend": "aoti", "exported": str(tmp_path / "out")}
    for key, sample in run(requests(), device="cuda", **options).items():
        assert_close_pixels(sample.image, exact[key].image)


def test_the_command_line_names_every_export(capfd):
    from discl.cli import main

    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = capfd.readouterr().out
    assert all(kind in text for kind in ("onnx", "aoti", "tensorrt"))
    assert main(["export", "aoti", "no-such-model", "out"]) == 2
    assert not Path("out").exists()
