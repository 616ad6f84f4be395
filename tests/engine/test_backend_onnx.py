"""The engine on ONNX Runtime: exact mode's images, whatever the batch; clear words where it cannot run."""

import builtins
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from discl import Engine, Request
from discl.cli import main
from discl.errors import DisclError, ModelError
from discl.scoring import ScoreRequest, score_images
from tests.engine.exports import tiny_export
from tests.engine.oracle import assert_close_pixels, random_image
from tests.tiny import tiny_clip, tiny_sdxl

LEVELS = (0, 10, 30, 50, 90)


def requests(size: tuple[int, int] = (64, 64)) -> list[Request]:
    return [
        Request(random_image(*size, seed=i), f"cat {i}", level, noise_seed=i, key=f"{i}-{level}", negative_prompt="dog")
        for i in range(2)
        for level in LEVELS
    ]


def run(wishes: list[Request], slots: int = 4, **options) -> dict:
    tiny = tiny_export()
    with Engine.from_pretrained(tiny.model, clip=tiny.clip, slots=slots, steps=10, **options) as engine:
        return {sample.request.key: sample for sample in engine.run(wishes)}


@pytest.mark.parametrize("solver", ["euler", "dpmpp-2m"])
def test_equals_exact_mode_at_every_level(solver):
    exact = run(requests(), solver=solver)
    ours = run(requests(), solver=solver, backend="onnx", exported=str(tiny_export().onnx))
    for key, sample in ours.items():
        assert sample.status == "ok", sample.reason
        assert_close_pixels(sample.image, exact[key].image)
        assert abs(sample.text_score - exact[key].text_score) < 1e-3
        np.testing.assert_allclose(sample.embedding, exact[key].embedding, atol=2e-3)


def test_an_image_does_not_depend_on_its_neighbours():
    options = {"backend": "onnx", "exported": str(tiny_export().onnx)}
    together, backwards = run(requests(), **options), run(requests()[::-1], **options)
    for wish in requests()[:2]:
        (alone,) = run([wish], **options).values()
        np.testing.assert_array_equal(alone.image, together[wish.key].image)
    for key, sample in backwards.items():
        np.testing.assert_array_equal(sample.image, together[key].image)


def test_weights_that_stand_in_the_files_are_not_held_twice():
    tiny = tiny_export()
    with Engine.from_pretrained(tiny.model, backend="onnx", exported=str(tiny.onnx)) as engine:
        assert all(weight.is_meta for weight in [*engine.model.unet.parameters(), *engine.model.vae.parameters()])


@pytest.fixture
def pictures(tmp_path):
    for number in range(5):
        file = tmp_path / "pictures" / ("owl", "fox")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        random_image(40, 30 + number, seed=number).save(file)
    return tmp_path / "pictures"


def score_rows_of(folder) -> list[dict]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_discl_score_gives_torchs_scores(pictures, tmp_path, capsys):
    tiny = tiny_export()
    request = ScoreRequest("x", tiny.clip, batch=3)
    expected = score_rows_of(score_images(pictures, "imagefolder", tmp_path / "plain", request))
    told = ["--clip", tiny.clip, "--batch", "3", "--backend", "onnx", "--exported", str(tiny.onnx)]
    assert main(["score", str(pictures), *told, "--out", str(tmp_path / "onnx")]) == 0
    folder = Path(capsys.readouterr().out.strip().splitlines()[-1])
    assert json.loads((folder / "scorer.json").read_text())["backend"] == "onnx"
    found = score_rows_of(folder)
    assert [row["path"] for row in found] == [row["path"] for row in expected] and len(found) == 5
    for ours, row in zip(found, expected, strict=True):
        assert ours["text_score"] == pytest.approx(row["text_score"], abs=1e-5)
        assert ours["margin"] == pytest.approx(row["margin"], abs=2e-5)


def test_discl_score_refuses_what_it_cannot_run(pictures, tmp_path):
    other, onnx = str(tiny_clip(tmp_path / "clip", seed=9)), str(tiny_export().onnx)
    for request, error, message in (
        (ScoreRequest("x", other, backend="onnx"), DisclError, "discl export onnx"),
        (ScoreRequest("x", other, backend="onnx", exported=onnx), ModelError, "clip_image.onnx is of another model"),
        (ScoreRequest("x", other, device="cuda:x"), ModelError, "is not a device"),
    ):
        with pytest.raises(error, match=message):
            score_images(pictures, "imagefolder", tmp_path / "out", request)


def refusal(error: type = ModelError, **options) -> str:
    tiny = tiny_export()
    given = {"path": tiny.model, "clip": tiny.clip, "backend": "onnx", "exported": str(tiny.onnx), **options}
    with pytest.raises(error) as caught:
        Engine.from_pretrained(given.pop("path"), **given)
    return str(caught.value)


def test_files_of_another_model_are_refused(tmp_path):
    assert "of another model" in refusal(path=str(tiny_sdxl(tmp_path / "other", seed=9)))
    assert "clip_image.onnx is of another model" in refusal(clip=str(tiny_clip(tmp_path / "clip", seed=9)))
    assert "is in float32 and the model in bfloat16" in refusal(dtype="bfloat16")


def test_a_missing_export_is_said(tmp_path):
    assert "discl export onnx MODEL OUT" in refusal(DisclError, exported=None)
    assert "holds no manifest.json" in refusal(exported=str(tmp_path))
    assert "format 1" in refusal(backend="aoti")
    assert "goes with the backends onnx, aoti, tensorrt" in refusal(DisclError, backend="torch")


def test_a_missing_onnxruntime_is_said(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert "pip install onnxruntime" in refusal()


def test_a_size_that_was_not_exported_is_named():
    with pytest.raises(ModelError, match="for images of 64x64 pixels, not for an input of") as caught:
        run([replace(wish, size=(48, 64)) for wish in requests()], backend="onnx", exported=str(tiny_export().onnx))
    assert "--size WIDTHxHEIGHT" in str(caught.value)
