"""watch: from the files of a run alone, while it goes on and afterwards."""

import json
import os
import re

import pytest

from discl.cli import main
from discl.store import Store
from discl.watching.state import Look
from discl.watching.views import as_page, as_prometheus, as_text
from tests.discl.project import FakeEngine, fake, make_project


def test_a_run_from_its_beginning_to_its_end(tmp_path, tiny_models, monkeypatch):
    monkeypatch.setattr("discl.run_record.LIVE_S", 0.0)
    file = make_project(tmp_path, tiny_models)
    states, looks = [], []

    def listen(event):
        if event.get("stage") == "generate":
            looks.append(looks[0] if looks else Look(tmp_path / "store"))
            states.append(looks[0]())

    store = fake(file, "store.shard_mb=0.002", "budget.usd_per_hour=1.0", "spectrum.seeds=6", on_event=listen)
    done = [state.progress["done"] for state in states[1:]]
    assert done == sorted(done) and done[-1] >= len(store) - 1
    assert all(state.status == "running" and state.alive == 1 for state in states)
    assert [state.samples for state in states] == sorted(state.samples for state in states)
    last = looks[0]()
    assert (last.status, last.samples, last.alive) == ("done", len(store), 0)
    table = store.table.to_pylist()
    for level, counts in last.levels.items():
        rows = [row for row in table if row["level"] == level]
        assert counts == {"made": len(rows), "ok": (ok := sum(row["status"] == "ok" for row in rows)), "accepted": ok}


def test_the_command_ends_with_the_run_and_writes_its_files(tmp_path, tiny_models, capsys):
    store = fake(make_project(tmp_path, tiny_models))
    page, metrics = tmp_path / "watch.html", tmp_path / "discl.prom"
    assert main(["watch", str(store.path), "--html", str(page), "--prometheus", str(metrics)]) == 0
    assert f"{len(store)} sealed" in capsys.readouterr().out
    assert 'http-equiv="refresh"' not in page.read_text(), "the run is over"
    line = re.compile(r'[a-z_]+\{store="[^"]+"(,level="\d+")?\} [0-9.e+-]+')
    assert all(text.startswith("# ") or line.fullmatch(text) for text in metrics.read_text().splitlines())
    assert main(["watch", str(tmp_path)]) == 2


def test_workers_errors_and_a_silent_run_are_shown(tmp_path, tiny_models):
    store = fake(make_project(tmp_path, tiny_models))
    (path,) = (store.path / "runs").glob("*.json")
    run = json.loads(path.read_text()) | {"status": "running"}
    run["workers"] = [
        {"name": "r-0000", "host": "<node>", "state": state, "samples": 3} for state in ("working", "lost")
    ]
    run["errors"] = [{"time": 0.0, "worker": "r-0001", "host": "<node>", "reason": "lost: the disk is full"}]
    path.write_text(json.dumps(run))
    look = Look(store.path)
    text, page = as_text(look()), as_page(look())
    assert "1 alive of 2" in text and "the disk is full" in text
    assert "&lt;node&gt;" in page and "<node>" not in page and 'http-equiv="refresh"' in page
    assert f'discl_workers{{store="{store.path}"}} 1' in as_prometheus(look())
    os.utime(path, (0, 0))
    assert look().status == "silent" and "may be dead" in as_text(look())


def test_why_a_run_failed_and_which_inputs_were_bad(tmp_path, tiny_models):
    file = make_project(tmp_path, tiny_models)
    (tmp_path / "data" / "red fox" / "0.png").write_bytes(b"no <picture>")

    class Failing(FakeEngine):
        def run(self, requests):
            yield from list(super().run(requests))[:4]
            raise RuntimeError("the <device> is lost")

    with pytest.raises(RuntimeError):
        fake(file, make=Failing)
    text, page = as_text(Look(tmp_path / "store")()), as_page(Look(tmp_path / "store")())
    assert ": failed" in text and "RuntimeError: the <device> is lost" in text
    assert "red fox/0.png: " in text and "red fox/0.png: " in page and "<device>" not in page


def test_a_record_that_changes_is_young_whatever_the_clocks_say(tmp_path, tiny_models):
    store = fake(make_project(tmp_path, tiny_models))
    (path,) = (store.path / "runs").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running"}))
    look = Look(store.path)
    os.utime(path, (1000, 1000))
    assert look().status == "silent", "as far as one look can tell"
    os.utime(path, (1001, 1001))
    assert look().status == "running" and look().age_s < 60


def test_a_store_without_runs(tmp_path):
    from tests.discl.store_samples import fill

    fill(tmp_path / "store", range(8))
    state = Look(tmp_path / "store")()
    assert state.samples == len(Store(tmp_path / "store")) and state.status == "none"
    assert "no run yet" in as_text(state)
