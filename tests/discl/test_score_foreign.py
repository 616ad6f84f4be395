"""`discl score` of images in no store: what changed is scored anew, what is bad has a place, what is real is found."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from discl.config import load_config
from discl.data import load_data
from discl.data.packed import pack
from discl.scoring import ScoreRequest, score_images
from tests.discl.test_score import scores


@pytest.fixture
def clip(tiny_models) -> str:
    return f"{tiny_models}/clip"


def test_images_that_came_went_or_changed_since_are_scored_anew(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("discl.scoring.foreign.BLOCK", 2)
    random = np.random.default_rng(2)

    def put(name: str) -> None:
        file = tmp_path / "tree" / "owl" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(file)

    def scored() -> dict[str, float]:
        folder = score_images(tmp_path / "tree", "imagefolder", tmp_path / "out", ScoreRequest("x", clip))
        return {row["path"]: row["text_score"] for row in scores(folder)}

    for name in ("0.png", "1.png", "2.png"):
        put(name)
    before = scored()
    put("3.png")  # in the file of 2.png
    put("1.png")
    after = scored()
    assert list(after) == [f"owl/{n}.png" for n in range(4)]
    assert [name for name, score in before.items() if score != after[name]] == ["owl/1.png"]
    for name in ("2.png", "3.png"):
        (tmp_path / "tree" / "owl" / name).unlink()
    assert list(scored()) == ["owl/0.png", "owl/1.png"]


def test_images_of_one_name_in_several_places_are_told_apart(tmp_path, clip):
    (tmp_path / "tars").mkdir()
    for name in ("a", "b"):
        with tarfile.open(tmp_path / f"tars/{name}.tar", "w") as tar:
            for member, data in {"0.png": b"no image", "0.cls": b"3", "1.bmp": b"", "1.cls": b"3"}.items():
                facts = tarfile.TarInfo(member)
                facts.size = len(data)
                tar.addfile(facts, io.BytesIO(data))
        leaf = tmp_path / "tree" / name / "Strength50_guidance10_seed3"
        leaf.mkdir(parents=True)
        (leaf / "0.png").write_bytes(b"no image")
    for kind, folder, wanted in (
        ("wds", "tars", ["a.tar/0", "a.tar/1", "b.tar/0", "b.tar/1"]),
        ("reference", "tree", [f"{name}/Strength50_guidance10_seed3/0.png" for name in "ab"]),
    ):
        out = tmp_path / f"out-{kind}"
        found = scores(score_images(tmp_path / folder, kind, out, ScoreRequest("x", clip)))
        assert [row["path"] for row in found if row["reason"]] == wanted
        assert [json.loads(line)["path"] for line in (out / "quarantine.jsonl").read_text().splitlines()] == wanted


def test_packed_real_images_and_every_held_out_split_are_compared_with(tmp_path, clip):
    random, lines = np.random.default_rng(4), ["path,label,class_name,split"]
    (tmp_path / "made" / "owl").mkdir(parents=True)
    for number, split in enumerate(("train", "train", "val", "test", "id_val", "id_test")):
        picture = Image.fromarray(random.integers(0, 256, (32, 40, 3), dtype=np.uint8))
        for file in (tmp_path / f"{number}.png", tmp_path / "made" / "owl" / f"{number}.png"):
            picture.save(file)
        lines.append(f"{number}.png,0,owl,{split}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "c.toml").write_text('[data]\nkind = "csv"\nroot = "t.csv"\n')
    (tmp_path / "p.toml").write_text('[data]\nkind = "store"\nroot = "real"\n')
    pack(load_data(load_config(tmp_path / "c.toml").data), tmp_path / "real")
    for name in ("c", "p"):
        request = ScoreRequest("x", clip, data=load_data(load_config(tmp_path / f"{name}.toml").data))
        found = scores(score_images(tmp_path / "made", "imagefolder", tmp_path / name, request))
        leaks = [row["leakage_id"] for row in found if row["leakage_score"] > 1 - 1e-5]
        assert leaks == ["2.png", "3.png", "4.png", "5.png"]
        assert all(row["centroid_score"] is not None for row in found)
