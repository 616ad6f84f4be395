"""What is wrong with a user's images, folders and paths is named, counted and survived (design 6 and 7)."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from discl.cli import main
from discl.store import Store, verify
from tests.discl.project import make_project

ODD_NAMES = {"red fox": 1, "größe 猫": 1}


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    return make_project(tmp_path, tiny_models, ODD_NAMES)


def run(capfd, *argv) -> tuple[int, str]:
    """Exit code and stderr of a command; its error is one line without a traceback."""
    code = main([str(arg) for arg in argv])
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    if code:
        assert len([line for line in errors.splitlines() if line.startswith("discl:")]) >= 1
    return code, errors


def last(errors: str) -> str:
    return errors.strip().splitlines()[-1]


def quarantined(file: Path) -> dict[str, str]:
    """File name -> reason, from the store of this project."""
    lines = (file.parent / "store" / "quarantine.jsonl").read_text().splitlines()
    return {Path(entry["path"]).name: entry["reason"] for entry in map(json.loads, lines)}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def good_pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """Unusual but sound files, and the (width, height) that their samples must have."""
    rgb = Image.fromarray(noise(32, 48, 3))
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("P").save(folder / "palette.png")
    rgb.convert("RGBA").save(folder / "alpha.webp")
    Image.fromarray(noise(32, 48).astype(np.uint16) * 257).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    rgb.save(folder / "turned.jpg", exif=exif)
    upright = dict.fromkeys(("cmyk.jpg", "palette.png", "alpha.webp", "sixteen.png"), (48, 32))
    return {**upright, "turned.jpg": (32, 48)}


def bad_pictures(folder: Path) -> set[str]:
    (folder / "text.png").write_bytes(b"this is no image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    Image.fromarray(noise(32, 32, 3)).save(folder / "cut.jpg")
    data = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    return {"text.png", "empty.jpg", "gone.png", "cut.jpg", "huge.png"}


def test_odd_pictures_are_used_and_bad_ones_quarantined(file, capfd):
    folder = file.parent / "data" / "red fox"
    good, bad = good_pictures(folder), bad_pictures(folder)
    code, _ = run(capfd, "generate", file, "--set", "hard.few_below=20", "--set", "data.max_bad_share=0.6")
    assert code == 0
    store = Store(file.parent / "store")
    assert quarantined(file).keys() == bad
    assert all(quarantined(file).values())
    sizes = {Path(row["source_id"]).name: (row["width"], row["height"]) for row in store.table.to_pylist()}
    assert {name: sizes[name] for name in good} == good
    assert verify(store.path) == []
    assert {row["class_name"] for row in store.table.to_pylist()} == set(ODD_NAMES)


def test_too_many_bad_pictures_end_with_exit_1(file, capfd):
    bad = bad_pictures(file.parent / "data" / "red fox")
    code, errors = run(capfd, "generate", file, "--set", "hard.few_below=20")
    assert code == 1
    assert "max_bad_share" in last(errors)
    assert quarantined(file).keys() == bad
    assert all(quarantined(file).values())
    for name in bad:
        (file.parent / "data" / "red fox" / name).unlink()
    assert run(capfd, "generate", file, "--set", "hard.few_below=20")[0] == 0


def test_names_that_are_not_utf_8_are_quarantined_for_files_and_named_for_classes(file, capfd):
    folder = os.fsencode(file.parent / "data")
    (Path(os.fsdecode(folder + b"/red fox/caf\xe9.png"))).write_bytes((file.parent / "data/red fox/0.png").read_bytes())
    assert run(capfd, "generate", file)[0] == 0
    (reason,) = quarantined(file).values()
    assert r"caf\xe9.png: its name is not UTF-8" in reason
    os.mkdir(folder + b"/caf\xe9")
    code, errors = run(capfd, "generate", file)
    assert code == 2
    assert r"data/caf\xe9: the folder's name is not UTF-8" in last(errors)


def test_a_picture_too_small_for_the_model_is_quarantined_once(file, capfd):
    Image.fromarray(noise(7, 40, 3)).save(file.parent / "data" / "red fox" / "flat.png")
    for _ in range(2):
        assert run(capfd, "generate", file)[0] == 0
    (reason,) = quarantined(file).values()
    assert "40 x 7 pixels" in reason and "at least 8" in reason
    assert {row["status"] for row in Store(file.parent / "store").table.to_pylist()} == {"ok"}
    assert run(capfd, "generate", file, "--set", "spectrum.size=[64, 64]", "--set", "spectrum.size_policy=crop")[0] == 0


def test_a_picture_that_would_be_made_too_large_is_quarantined(file, capfd, monkeypatch):
    monkeypatch.setattr("discl.source_image.MAX_PIXELS", 100 * 100)
    Image.fromarray(noise(128, 128, 3)).save(file.parent / "data" / "red fox" / "large.png")
    assert run(capfd, "generate", file)[0] == 0
    ((name, reason),) = quarantined(file).items()
    assert name == "large.png" and "would be made at 128 x 128, more than 10,000 pixels; remove it, set" in reason


def test_class_names_with_slashes_reach_prompts_as_they_are(file, capfd):
    (file.parent / "table.csv").write_text('path,label,class_name\n"data/red fox/0.png",0,cat/dog: a "mix"\n')
    table = ["--set", "data.kind=csv", "--set", "data.root=table.csv"]
    assert run(capfd, "generate", file, *table)[0] == 0
    rows = Store(file.parent / "store").table.to_pylist()
    assert {row["prompt"] for row in rows} == {'a photo of a cat/dog: a "mix"'}


def test_an_empty_class_folder_is_named(file, capfd):
    (file.parent / "data" / "unicorn").mkdir()
    code, errors = run(capfd, "plan", file)
    assert code == 2
    assert "unicorn" in last(errors)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("spectrum.stepz=3", "'steps'"),
        ("model.path=nowhere", "nowhere"),
        ("model.path=data", "model_index.json"),
        ("model.path=", "[model] path is missing"),
        ("data.root=nowhere", "nowhere"),
        ("score.clip=nowhere", "nowhere"),
        ("score.threshold={foks = 0.2}", "class 'foks'"),
        ("spectrum.levels=[99]", "at least steps=100,"),
        ("spectrum.prompt=a {klass}", "{class}"),
        ("store.path=run.toml/store", "run.toml"),
        ("store.path=/proc/discl", "/proc/discl"),
    ],
)
def test_what_the_user_must_change_is_exit_2_and_named(file, capfd, override, part):
    code, errors = run(capfd, "generate", file, "--set", override)
    assert code == 2
    assert part in last(errors)


@pytest.mark.parametrize("missing", ["unet/diffusion_pytorch_model.safetensors", "vae", "text_encoder/config.json"])
def test_a_missing_model_file_is_exit_2_and_named(file, tiny_models, capfd, missing):
    import shutil

    broken = file.parent / "broken"
    shutil.copytree(tiny_models / "sd", broken)
    shutil.rmtree(broken / missing) if (broken / missing).is_dir() else (broken / missing).unlink()
    code, errors = run(capfd, "generate", file, "--set", "model.path=broken")
    assert code == 2
    assert "broken" in last(errors)
