"""The plan's laws: every (source, seed, level) once, under its own key, the same whenever it is planned."""

import hashlib
import json
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from discl import sources
from discl.config import parse_config
from discl.data import DataTable
from discl.engine.noise_schedule import executed_steps
from discl.errors import ConfigError, DisclError
from discl.plan import make_plan
from discl.recipe import recipe_of

CONFIG = """
[data]
kind = "imagefolder"
root = "."
[spectrum]
levels = [0, 10, 90]
seeds = [10, 20]
steps = 20
"""


def picture(path: Path, value: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 12, 3), value, np.uint8)).save(path)
    return str(path)


@pytest.fixture
def table(tmp_path) -> DataTable:
    """Two classes; images 0 and 2 of the first are equal, image 3 is not there."""
    values = [1, 2, 1, 3, 4]
    paths = [picture(tmp_path / "pictures" / f"{i}.png", value) for i, value in enumerate(values)]
    Path(paths[3]).unlink()
    return DataTable(
        ids=[f"id{i}" for i in range(5)],
        paths=paths,
        labels=np.array([0, 0, 0, 1, 1]),
        splits=["train"] * 5,
        class_names=("owl", "red fox"),
    )


def plan_of(table, *overrides, rows=(0, 1, 2, 3, 4)):
    config = parse_config(CONFIG, Path("/here"), "run.toml", overrides)
    return make_plan(config, table, np.array(rows), recipe_of(config, "0" * 32))


def known(keys=frozenset()):
    """What a store with these keys tells of a sample."""
    return lambda sample: sample.key in keys or None


def test_counts_and_uniqueness(table):
    plan = plan_of(table)
    samples = list(plan)
    assert len(samples) == len(plan) == 3 * 2 * 3
    assert len({sample.key for sample in samples}) == len(samples)
    per_source = Counter(sample.source_digest for sample in samples)
    assert set(per_source.values()) == {6}
    assert {(sample.seed, sample.level) for sample in samples} == {(s, v) for s in (10, 20) for v in (0, 10, 90)}


def test_equal_bytes_of_a_class_are_planned_once_with_every_id(table):
    ids = {sample.source_ids for sample in plan_of(table)}
    assert ids == {("id0", "id2"), ("id1",), ("id4",)}


def test_equal_bytes_in_two_classes_stay_apart_while_their_prompts_differ(table, tmp_path):
    picture(tmp_path / "pictures" / "4.png", 2)
    plan = plan_of(table)
    assert len({sample.key for sample in plan}) == len(plan) == 18
    same_prompt = plan_of(table, "spectrum.prompt=a thing")
    assert len({sample.key for sample in same_prompt}) == len(same_prompt) == 12
    assert "another class as id1" in same_prompt.quarantined[-1][1]


def test_equal_bytes_of_two_classes_that_share_one_sentence_are_quarantined(table, tmp_path):
    """One common sentence at one seed would make one key for two classes, also where the other seeds differ."""
    picture(tmp_path / "pictures" / "4.png", 2)
    for owl, fox, distinct in ((["a", "b"], ["c", "d"], 3), (["a", "b"], ["b", "c"], 2), (["a", "b"], ["b", "a"], 2)):
        (tmp_path / "prompts.json").write_text(json.dumps({"owl": owl, "red fox": fox}))
        file = f"spectrum.prompts={tmp_path}/prompts.json"
        plan = plan_of(table, file, "spectrum.retries=5", "spectrum.seeds=20")
        assert len(plan.sources) == distinct, (owl, fox)
        keys = [plan.attempt(sample, retry).key for sample in plan for retry in range(6)]
        assert len(set(keys)) == len(keys)


def test_levels_share_the_noise_seed_and_seeds_do_not(table):
    noise = {}
    for sample in plan_of(table):
        assert noise.setdefault((sample.source_digest, sample.seed), sample.noise_seed) == sample.noise_seed
    assert len(set(noise.values())) == len(noise) == 6


def test_it_is_deterministic_and_ids_and_order_do_not_change_keys(table):
    keys = {(sample.source_digest, sample.seed, sample.level): sample.key for sample in plan_of(table)}
    again = plan_of(table, rows=(4, 2, 1))
    assert {(sample.source_digest, sample.seed, sample.level): sample.key for sample in again} == keys


def test_indexing_equals_iterating(table):
    plan = plan_of(table)
    assert [plan[i] for i in range(len(plan))] == list(plan) == plan[:]
    assert plan[-1] == list(plan)[-1]
    with pytest.raises(IndexError):
        plan[len(plan)]


def test_a_file_that_cannot_be_read_is_quarantined(table):
    plan = plan_of(table)
    assert [(Path(path).name, "cannot be read" in reason) for path, reason in plan.quarantined] == [("3.png", True)]


@pytest.mark.parametrize("policy", ["fit", "crop", "bucket", "stretch"])
def test_sizes_that_cannot_be_made_are_foreseen_as_they_are_found(tmp_path, policy):
    """By headers alone what making every source finds, also where EXIF turns an image."""
    random = np.random.default_rng(8)
    paths = []
    for number, turned in enumerate([False, True] * 20):
        paths.append(tmp_path / f"{number}.{random.choice(['png', 'jpg'])}")
        long, short = random.integers(60, 200), random.integers(1, 40)
        image, exif = Image.new("RGB", (long, short) if random.random() < 0.5 else (short, long)), Image.Exif()
        exif[0x0112] = 6 if turned else 1
        image.putpixel((0, 0), (number, 0, 0))
        image.save(paths[-1], exif=exif, lossless=True)
    labels, ids = np.zeros(len(paths), np.int64), [path.name for path in paths]
    table = DataTable(ids, list(map(str, paths)), labels, ["train"] * len(paths), ("owl",))
    wishes = ("spectrum.size=[32, 64]", f"spectrum.size_policy={policy}")
    foreseen, found = (plan_of(table, *wishes, rows=range(len(paths))) for _ in range(2))
    foreseen.quarantine_unmakeable()
    made = {planned.row for planned, _ in found.due(known())}
    assert foreseen.quarantined == found.quarantined
    assert bool(found.quarantined) == (policy == "fit") and made
    assert {source.rows[0] for source in foreseen.sources} == made


def test_evaluations_are_counted_in_whole_steps(table):
    assert plan_of(table).unet_evaluations == 3 * 2 * (20 + 18 + 2) * 2
    assert plan_of(table, "spectrum.text_guidance=1").unet_evaluations == 3 * 2 * (20 + 18 + 2)


@pytest.mark.parametrize(("levels", "steps", "smallest"), [([0, 90], 9, 10), ([99], 50, 100), ([67], 3, 4)])
def test_zero_steps_names_the_smallest_number(table, levels, steps, smallest):
    assert executed_steps(smallest, max(levels)) == 1
    with pytest.raises(DisclError):
        executed_steps(smallest - 1, max(levels))
    with pytest.raises(ConfigError, match=rf"^\[spectrum\] steps={steps} .*at least steps={smallest},"):
        plan_of(table, f"spectrum.levels={levels}", f"spectrum.steps={steps}")


def test_each_source_is_opened_once_when_it_is_due(table, monkeypatch):
    opened = []
    monkeypatch.setattr("discl.source_image.open_image", lambda path: opened.append(path) or Image.new("RGB", (8, 8)))
    plan = plan_of(table)
    due = plan.due(known({sample.key for sample in plan[:6]}))
    assert opened == []
    assert next(due)[1].key == plan[6].key
    assert len(opened) == 1
    assert [request.key for _, request in due] == [sample.key for sample in plan[7:]]
    assert opened == [table.paths[1], table.paths[4]]


def test_requests_say_what_was_planned(table):
    plan = plan_of(table, "spectrum.negative_prompt=no {class}")
    for sample, request in plan.due(known()):
        for name in ("key", "prompt", "negative_prompt", "level", "noise_seed", "class_name", "source_id"):
            assert getattr(request, name) == getattr(sample, name)
        assert request.negative_prompt == f"no {sample.class_name}"


def test_sources_are_read_ahead_of_the_plan_but_not_far(table, tmp_path, monkeypatch):
    """Order is the rows'; what is read and not yet taken stays bounded however slow the taker is."""
    paths = [picture(tmp_path / "many" / f"{i}.png", i % 251) for i in range(300)]
    many = DataTable([f"id{i}" for i in range(300)], paths, np.zeros(300, int), ["train"] * 300, ("owl",))
    started, furthest = [], []
    real = sources._read
    monkeypatch.setattr(sources, "_read", lambda table, seeds, row: started.append(row) or real(table, seeds, row))
    monkeypatch.setattr(sources, "AHEAD", 5)
    monkeypatch.setattr(sources, "AT_ONCE", 2)
    reading = sources._in_order(partial(sources._read, many, (10,)), range(300))
    for row, found in reading:
        furthest.append(max(started) - row)
        assert found.rows == (row,)
    assert sorted(started) == list(range(300))
    assert max(furthest) <= 10
    plan = plan_of(many, rows=range(300))
    digests = [hashlib.blake2b(Path(path).read_bytes(), digest_size=16).hexdigest() for path in paths]
    assert [source.digest for source in plan.sources] == list(dict.fromkeys(digests))


def test_a_damaged_source_is_reported_and_left_out(table):
    data = Path(table.paths[1]).read_bytes()
    Path(table.paths[1]).write_bytes(data[:40] + bytes(20) + data[60:])
    plan, bad = plan_of(table), []
    made = [planned.source_id for planned, _ in plan.due(known(), on_bad=lambda path, reason: bad.append(path))]
    assert bad == [table.paths[1]]
    assert set(made) == {"id0", "id4"}
