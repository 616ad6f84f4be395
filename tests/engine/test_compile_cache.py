"""The compile cache: a fresh process starts warm from it; what is damaged or foreign is ignored with a warning."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from discl import DisclError, Engine
from discl.engine.compile_cache import CompileCache, compile_facts, unpack
from discl.engine.pretrained import load_model
from tests.tiny import tiny_sd

ROOT = Path(__file__).parents[2]
FACTS = {"model": "m", "torch": "2"}
# One process: compile a small function and keep it, as the engine does with its networks.
PROCESS = """
import json, logging, sys, torch
from torch._dynamo.utils import counters
from discl.engine.compile_cache import CompileCache
from discl.engine.compiled import StaticGraphs
logging.basicConfig(level=logging.WARNING)
place, facts, sizes = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
cache = CompileCache(place, facts)
loaded = cache.load()
graph = StaticGraphs(lambda x: (x.sin() + 1).cumsum(0), torch.device("cpu"))
for size in sizes:
    x = torch.arange(size, dtype=torch.float32)
    assert torch.allclose(graph(x), (x.sin() + 1).cumsum(0))
cache.save()
cache.save()
hits, misses = (counters["inductor"][name] for name in ("fxgraph_cache_hit", "fxgraph_cache_miss"))
print(json.dumps({"loaded": loaded, "hits": hits, "misses": misses}))
"""


def process(place, scratch: Path, *sizes: int) -> dict:
    """What a process with an empty cache of torch's own saw."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(scratch)}
    command = [sys.executable, "-c", PROCESS, str(place), json.dumps(FACTS), json.dumps(sizes)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def libraries(folder: Path) -> list[str]:
    """Without the little ones that probe the instruction sets."""
    return sorted(file.name for file in folder.rglob("*.main.so"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    place, scratch = tmp_path_factory.mktemp("place"), tmp_path_factory.mktemp("first")
    seen = process(place, scratch, 40)
    assert seen == {"loaded": 0, "hits": 0, "misses": 1}
    assert libraries(scratch)
    return place


def files(place: Path) -> list[Path]:
    return sorted(file for file in place.rglob("*") if file.is_file())


def test_a_fresh_process_starts_warm_and_adds_nothing(filled, tmp_path):
    before = {file: file.read_bytes() for file in files(filled)}
    assert len(before) == 1
    with zipfile.ZipFile(next(iter(before))) as archive:
        packed = sorted(set(archive.namelist()) - {"artifacts.bin"})
    seen = process(filled, tmp_path / "second", 40)
    assert seen["loaded"] and (seen["hits"], seen["misses"]) == (1, 0)
    assert libraries(tmp_path / "second") == packed  # no compiler ran
    assert {file: file.read_bytes() for file in files(filled)} == before


def test_a_new_shape_is_added_beside_the_old_one(filled, tmp_path):
    copy = tmp_path / "place"
    for file in files(filled):
        target = copy / file.relative_to(filled)
        target.parent.mkdir(parents=True)
        target.write_bytes(file.read_bytes())
    assert process(copy, tmp_path / "second", 50)["misses"] == 1
    assert len(files(copy)) == 2
    assert process(copy, tmp_path / "third", 40, 50)["misses"] == 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "strange"])
def test_a_damaged_file_is_ignored_with_a_warning(filled, tmp_path, caplog, damage):
    (file,) = files(filled)
    data = bytearray(file.read_bytes())
    target = tmp_path / "place" / file.relative_to(filled)
    target.parent.mkdir(parents=True)
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 3] ^= 255
    elif damage == "text":
        data = bytearray(b"not an archive")
    target.write_bytes(data)
    if damage == "strange":
        with zipfile.ZipFile(target, "a") as archive:
            archive.writestr("../../outside.main.so", b"code")
    assert CompileCache(str(tmp_path / "place"), FACTS).load() == 0
    assert "is ignored" in caplog.text and target.name in caplog.text
    assert not list(tmp_path.rglob("outside*"))


def test_another_model_or_device_is_another_cache(filled, tmp_path):
    model = load_model(tiny_sd(tmp_path / "a"), torch.device("cpu"), torch.float32)
    wider = load_model(tiny_sd(tmp_path / "b", channels=(16, 48)), torch.device("cpu"), torch.float32)
    facts = [compile_facts(other, torch.device("cpu")) for other in (model, wider)]
    other_weights = load_model(tiny_sd(tmp_path / "c", seed=9), torch.device("cpu"), torch.float32)
    assert compile_facts(other_weights, torch.device("cpu")) == facts[0]
    assert CompileCache(str(filled), facts[0]).folder != CompileCache(str(filled), facts[1]).folder
    assert CompileCache(str(filled), {**FACTS, "torch": "3"}).load() == 0


def test_a_bucket_works_as_a_folder_does():
    cache = CompileCache("memory://cache", FACTS)
    cache._write(b"not an archive", {"a"})
    assert [file.split("/")[-1].endswith(".zip") for file in cache._files()] == [True]
    assert CompileCache("memory://cache", FACTS).load() == 0


def test_a_place_that_is_none_is_refused(tmp_path):
    with pytest.raises(DisclError, match="cannot be opened"):
        Engine.from_pretrained(tiny_sd(tmp_path / "sd"), backend="torch-compile", cache="nosuchscheme://bucket")


def test_a_place_that_cannot_be_written_only_warns(tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    cache = CompileCache(str(tmp_path / "file"), FACTS)
    monkeypatch.setattr("discl.engine.compile_cache.compiled_graphs", lambda: -1)
    monkeypatch.setattr("discl.engine.compile_cache.pack", lambda: (b"", {"a"}))
    cache.save()
    assert "nothing written" in caplog.text


def test_an_archive_without_artifacts_is_none_of_ours(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(KeyError):
        unpack((tmp_path / "a.zip").read_bytes())
