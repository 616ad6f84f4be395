"""Parts of a plan: each source once, and merged they are what one run makes, to the byte."""

import argparse

import pytest

from discl.cli import main
from discl.errors import ConfigError
from discl.generation import generate
from discl.parts import keep_part, parse_part
from discl.store import Store, verify
from tests.discl.project import FakeEngine, contents, loaded, make_project


@pytest.mark.parametrize("text", ["", "3", "1/0", "5/4", "-1/4", "a/b", "1/4/2"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_part(text)


@pytest.mark.parametrize("first", [0, 1], ids=["from 0", "from 1"])
@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_every_source_is_in_one_part(first, n):
    class Plan:
        def __init__(self):
            self.sources = list(range(20))

    parts = []
    for i in range(first, first + n):
        plan = Plan()
        keep_part(plan, (i, n))
        parts.append(plan.sources)
    assert sorted(source for part in parts for source in part) == list(range(20))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ConfigError, match="part 9/"):
        keep_part(Plan(), (9, n))


def test_merged_parts_are_what_one_process_makes(tmp_path, tiny_models, capsys):
    file = make_project(tmp_path, tiny_models)
    assert main(["generate", str(file), "--out", str(tmp_path / "whole")]) == 0
    whole, parts = Store(tmp_path / "whole"), [tmp_path / f"part{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, 1):
        assert main(["generate", str(file), "--part", f"{i}/3", "--out", str(part)]) == 0
    assert [len(Store(part)) for part in parts] == [8, 4, 8]
    assert main(["store", "merge", *map(str, parts), "--into", str(tmp_path / "merged")]) == 0
    merged = Store(tmp_path / "merged")
    assert contents(merged) == contents(whole)
    assert merged.selection("default") == whole.selection("default")
    assert verify(tmp_path / "merged") == []


def test_retries_and_parts(tmp_path, tiny_models, fake_weights):
    file = make_project(tmp_path, tiny_models)
    wishes = ("spectrum.retries=2", "score.threshold=0.3", "spectrum.seeds=5")
    config = loaded(file, *wishes)
    whole = generate(config, make=FakeEngine)
    parts = [
        generate(loaded(file, *wishes, f"store.path={tmp_path / name}"), part=(i, 2), make=FakeEngine)
        for i, name in enumerate("ab")
    ]
    assert len(parts[0]) + len(parts[1]) == len(whole) > 50
    assert contents(parts[0]) | contents(parts[1]) == contents(whole)
    assert sorted(parts[0].selection("default") + parts[1].selection("default")) == whole.selection("default")


def test_a_part_does_not_calibrate(tmp_path, tiny_models):
    file = make_project(tmp_path, tiny_models)
    with pytest.raises(ConfigError, match="cannot calibrate"):
        generate(loaded(file, "engine.early_rejection=true"), part=(0, 2), make=FakeEngine)
