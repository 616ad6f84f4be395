"""Retries and best-of-n in a run: what is made, selected and continued, against the paper's loop on the same scores."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from discl.data import load_data
from discl.errors import ConfigError
from discl.generation import generate
from discl.hard import select_hard
from discl.plan import Plan, make_plan
from discl.recipe import make_recipe
from discl.store import Store, verify
from discl.store.shard import OpenShard
from tests.discl.project import FakeEngine, contents, fake, loaded, make_project, no_engine, runs, without_score

pytestmark = pytest.mark.usefixtures("fake_weights")
WISHES = 5 * 2 * 2
SETTINGS = [(1, 5), (3, 0), (2, 3), (1, 1)]


@pytest.fixture
def file(tmp_path, tiny_models) -> Path:
    return make_project(tmp_path, tiny_models)


def settings(best_of: int, retries: int, threshold: float = 0.35) -> list[str]:
    return [f"spectrum.best_of={best_of}", f"spectrum.retries={retries}", f"score.threshold={threshold}"]


def plan_of(file: Path, *overrides: str) -> Plan:
    config = loaded(file, *overrides)
    table = load_data(config.data)
    return make_plan(config, table, select_hard(config.hard, table), make_recipe(config))


class Judged(FakeEngine):
    """Tells the fake engine's verdict on a key without running it."""

    def accepts(self, planned, threshold: float) -> tuple[bool, float]:
        sample = self.sample(type("Wished", (), {"key": planned.key})())
        score = np.float32(sample.text_score or 0)
        return sample.status == "ok" and score >= np.float32(threshold), float(score)


def expected(file: Path, best_of: int, retries: int, threshold: float = 0.35) -> tuple[set[str], set[str]]:
    """All keys and the selected ones, by the paper's loop: candidates, then one more until one is accepted."""
    options = settings(best_of, retries, threshold)
    plan, judge = plan_of(file, *options), Judged(loaded(file, *options), 1)
    made, chosen = set(), set()
    for first in plan:
        attempts = [plan.attempt(first, retry) for retry in range(best_of)]
        while not any(judge.accepts(each, threshold)[0] for each in attempts) and len(attempts) < best_of + retries:
            attempts.append(plan.attempt(first, len(attempts)))
        made |= {each.key for each in attempts}
        good = [each for each in attempts if judge.accepts(each, threshold)[0]]
        if good:
            chosen.add(max(good, key=lambda each: judge.accepts(each, threshold)[1]).key)
    return made, chosen


@pytest.mark.parametrize(("best_of", "retries"), SETTINGS)
def test_the_attempts_and_the_selection_are_the_papers(file, best_of, retries):
    made, chosen = expected(file, best_of, retries)
    events = []
    store = fake(file, *settings(best_of, retries), on_event=events.append)
    assert set(contents(store)) == made
    assert set(store.selection("default")) == chosen
    assert WISHES * best_of <= len(made) <= WISHES * (best_of + retries)
    assert 0 < len(chosen) < WISHES
    last = [event for event in events if event["event"] == "progress" and event["stage"] == "generate"][-1]
    assert last["done"] == last["total"] == len(made)
    assert verify(store.path) == []


def test_every_attempt_has_its_row_its_noise_and_a_link_to_the_first(file):
    rows = fake(file, *settings(1, 5)).table.to_pylist()
    by_key = {row["key"]: row for row in rows}
    assert {row["retry"] for row in rows} == set(range(6))
    for row in rows:
        if row["retry"] == 0:
            assert row["attempt_of"] is None
            continue
        first = by_key[row["attempt_of"]]
        for name in ("source_digest", "class_name", "level", "seed", "recipe"):
            assert row[name] == first[name]
        assert first["retry"] == 0
    noise = {(row["source_digest"], row["seed"], row["retry"]): row["noise_seed"] for row in rows}
    assert len(set(noise.values())) == len(noise), "the levels of one attempt share noise, nothing else does"
    assert all(noise[row["source_digest"], row["seed"], row["retry"]] == row["noise_seed"] for row in rows)


def test_retries_take_the_next_sentence_of_the_class(file):
    names = ["red fox", "käfer"]
    sentences = {name: [f"{name} number {i}" for i in range(4)] for name in names}
    (file.parent / "prompts.json").write_text(json.dumps(sentences))
    rows = fake(file, "spectrum.prompts=prompts.json", *settings(1, 5, 1.0)).table.to_pylist()
    for name in names:
        for seed in {row["seed"] for row in rows}:
            tried = {row["retry"]: row["prompt"] for row in rows if (row["class_name"], row["seed"]) == (name, seed)}
            first = sentences[name].index(tried[0])
            assert tried == {retry: sentences[name][(first + retry) % 4] for retry in range(6)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "killed"])
def test_a_stop_at_any_sample_continues_to_the_same_store(file, monkeypatch, seed, sealed):
    options = settings(*SETTINGS[seed])
    whole = fake(file, "store.path=whole", *options)
    if not sealed:  # what a kill leaves: a shard that only its journal knows
        monkeypatch.setattr("discl.store.StoreWriter._seal", lambda writer: None)
    random, stops = np.random.default_rng(seed), 0
    for _ in range(60):
        left = int(random.integers(1, 10))

        def stop(event):
            nonlocal left
            left -= event["event"] == "progress" and event["stage"] == "generate"
            if left < 0:
                raise KeyboardInterrupt

        try:
            fake(file, *options, on_event=stop)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops > 1
    monkeypatch.undo()
    monkeypatch.setattr("discl.judge.clip_digest", lambda name: "5" * 32)
    store = fake(file, *options, make=no_engine)
    assert contents(store) == contents(whole)
    assert store.selection("default") == whole.selection("default")


def test_what_is_still_being_sealed_is_remembered(file, monkeypatch):
    """A recovered shard is sealed beside the run that begins: its rows must count among what is there."""
    options, seal = [*settings(1, 5), "store.shard_mb=0.01"], OpenShard.seal

    class Dies(FakeEngine):
        def run(self, requests):
            for number, sample in enumerate(super().run(requests)):
                if number == 15:
                    raise KeyboardInterrupt
                yield sample

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(OpenShard, "seal", lambda shard, run_id: None)
        fake(file, *options, make=Dies)
    assert len(list((file.parent / "store" / "shards").glob("*.journal"))) > 1

    def slowly(shard, run_id):
        time.sleep(0.2)
        seal(shard, run_id)

    monkeypatch.setattr(OpenShard, "seal", slowly)
    store = fake(file, *options)
    assert set(contents(store)) == expected(file, 1, 5)[0]


class Crowded(FakeEngine):
    """Reads far ahead and gives samples back in random order, as many slots would."""

    def run(self, requests):
        random, held, feed = np.random.default_rng(self.slots), [], iter(requests)
        while True:
            request = next(feed, "end")
            waits = request in ("end", None)
            if not waits:
                held.append(request)
            if held and (waits or len(held) > self.slots):
                yield self.sample(held.pop(int(random.integers(len(held)))))
            elif waits and request is None:
                raise AssertionError("the feed waits although nothing is under way")
            elif waits:
                return


@pytest.mark.parametrize("slots", [1, 4, 50])
@pytest.mark.parametrize(("best_of", "retries"), SETTINGS)
def test_slots_and_order_leave_the_same_store(file, best_of, retries, slots):
    made, chosen = expected(file, best_of, retries)
    store = fake(file, f"engine.slots={slots}", *settings(best_of, retries), make=Crowded)
    assert set(contents(store)) == made
    assert set(store.selection("default")) == chosen


def test_settings_may_change_between_runs(file):
    """The store then holds what either asked for, and the selection is that of the last."""
    first = set(contents(fake(file, *settings(1, 0))))
    more = set(contents(fake(file, *settings(1, 3))))
    assert first < more == expected(file, 1, 3)[0]
    best = fake(file, *settings(3, 0))
    assert set(contents(best)) == more | expected(file, 3, 0)[0]
    stricter = fake(file, *settings(1, 3, 0.45))
    assert set(stricter.selection("default")) >= expected(file, 1, 3, 0.45)[1]
    assert len(stricter.selection("default")) <= WISHES


def test_without_score_only_failures_are_made_again(file):
    rows = fake(without_score(file), "spectrum.retries=9").table.to_pylist()
    last = {}
    for row in sorted(rows, key=lambda row: row["retry"]):
        last[row["attempt_of"] or row["key"]] = row["status"]
    assert set(last.values()) == {"ok"}
    assert sum(row["status"] == "ok" for row in rows) == WISHES


def test_a_source_that_cannot_be_used_is_not_tried_again(file):
    class Broken(FakeEngine):
        def sample(self, request):
            sample = super().sample(request)
            if request.level == 50:
                sample.status, sample.image, sample.text_score = "error", None, None
            return sample

    rows = fake(file, *settings(1, 5, 1.0), make=Broken).table.to_pylist()
    assert {row["retry"] for row in rows if row["level"] == 50} == {0}
    assert {row["retry"] for row in rows if row["level"] == 0} == set(range(6))


def test_keep_accepted_keeps_the_pixels_of_every_accepted_attempt(file):
    store = fake(file, *settings(3, 2), "store.keep=accepted")
    for row in store.table.to_pylist():
        accepted = row["status"] == "ok" and row["text_score"] >= np.float32(0.35)
        assert (row["shard"] is not None) == accepted


def test_best_of_needs_a_score(file):
    with pytest.raises(ConfigError, match=r"best_of = 2 needs \[score\]"):
        loaded(without_score(file), "spectrum.best_of=2")


def test_the_record_and_the_rule_tell_of_attempts(file):
    store = fake(file, *settings(2, 3))
    (run,) = runs(store)
    rows = store.table.to_pylist()
    assert run["counts"]["retried"] == sum(row["retry"] >= 2 for row in rows) > 0
    assert run["counts"]["planned"] == WISHES
    rule = store.selection_rule("default")
    assert (rule["best_of"], rule["retries"]) == (2, 3)


def test_the_real_engine_makes_retries_while_it_runs(file):
    """No score reaches 1: every attempt is made; each image is what its request gives by itself."""
    options = [*settings(2, 2, 1.0), "store.format=png", "store.path=real", "spectrum.seeds=1"]
    store = generate(loaded(file, *options))
    rows = store.table.to_pylist()
    assert len(rows) == 5 * 2 * 4
    assert store.selection("default") == []
    plain = generate(loaded(file, *settings(4, 0, 1.0), "store.format=png", "store.path=plain", "spectrum.seeds=1"))
    assert contents(plain) == contents(store)
    assert Store(store.path).table["text_score"].null_count == 0
