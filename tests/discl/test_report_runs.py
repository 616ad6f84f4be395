"""Folders that runs leave behind become one page."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from discl.errors import ConfigError
from discl.filtering import Rules, filter_store
from discl.report import report_runs
from discl.report.facts import store_facts
from discl.report.run_folder import open_run
from discl.report.runs import SourceFiles, merged_metrics, stages
from discl.store import Store, StoreWriter
from tests.discl.fake_store import THRESHOLD, index_rows, png
from tests.discl.test_report import Page

CONFIG = """
[data]
kind = "imagefolder"
root = "data"
[model]
path = "model"
[score]
clip = "clip"
threshold = 0.3
[store]
path = "spectrum"
"""
RECORD = {
    "seconds": {"load": 2.0, "generate": 10.0, "engine.unet": 6.0, "engine.decode": 1.0},
    "unet_evaluations": 500, "slots": 4, "slot_occupancy": 0.97, "versions": {"discl": "9.9"},
}  # fmt: skip


def fill_store(folder):
    """A real store with the mock's rows; source s0 lies on disk."""
    defaults = {
        "recipe": "r", "created_at": None, "source_digest": "", "noise_seed": 1, "prompt": "a zero",
        "image_score": None, "margin": None, "reason": None, "control": False, "width": 32, "height": 32,
    }  # fmt: skip
    with StoreWriter(folder, "run", shard_bytes=1 << 20, embeddings=False) as writer:
        for row in index_rows():
            values = {k: v for k, v in row.items() if k != "shard"}
            full = {**defaults, **values, "source_ids": [row["source_id"]]}
            image = png(int(row["key"], 16) % 256) if row["status"] == "ok" else None
            writer.append(full, image, "png", None)
    store = Store(folder)
    good = [r["key"] for r in index_rows() if r["status"] == "ok" and r["text_score"] >= THRESHOLD]
    store.write_selection("default", good, {"threshold": {"default": 0.3, "classes": {}, "levels": {}}})
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "runs" / "0.json").write_text(json.dumps(RECORD))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run-a"
    for name in ("data/zero", "model", "clip"):
        (folder / name).mkdir(parents=True)
    (folder / "data" / "zero" / "s0.png").write_bytes(png(3))
    (folder / "config.toml").write_text(CONFIG)
    fill_store(folder / "spectrum")
    groups = {"overall": {"mean": 0.5, "std": 0.1}, "few": {"mean": 0.4, "std": 0.1}}
    (folder / "metrics.json").write_text(json.dumps({"methods": {"ce": groups}, "seconds": {"train": 7.0}}))
    return folder


def test_a_runs_folder_gives_every_section(run):
    page = Page(report_runs([run]).read_text())
    assert len(page.named("section")) == 8
    text = " ".join(page.text)
    assert "9.9" in text and "4 slots, 97.0% occupied" in text and "500" in text


def test_a_store_alone_gives_its_spectrum(run, tmp_path):
    out = report_runs([run / "spectrum"], tmp_path / "page.html")
    sections = [section["id"] for section in Page(out.read_text()).named("section")]
    assert sections == ["spectrum", "acceptance", "coverage", "threshold", "boundary", "cost", "provenance"]


def test_a_store_alone_shows_the_sources_that_its_newest_run_was_about(run, tmp_path):
    record = run / "spectrum" / "runs" / "0.json"
    (run / "data" / "zero" / "s0.png").rename(run / "data" / "zero" / "0.png")
    alone = open_run(run / "spectrum")
    assert SourceFiles(alone.data)("zero/0.png") is None
    data = {"kind": "imagefolder", "root": str(run / "data")}
    for config, found in ({"data": data}, png(3)), ({"data": {**data, "kind": "of another version"}}, None), ({}, None):
        record.write_text(json.dumps({**RECORD, "config": config}))
        assert SourceFiles(open_run(run / "spectrum").data)("zero/0.png") == found
        report_runs([run / "spectrum"], tmp_path / "page.html")


def test_sources_that_cannot_be_reached_or_read_have_no_picture(run, monkeypatch):
    (run / "data" / "zero" / "s0.png").rename(run / "data" / "zero" / "0.png")
    data = open_run(run).data
    assert SourceFiles(data)("zero/0.png") == png(3)
    (run / "data" / "zero" / "0.png").write_bytes(png(3)[:40])
    assert SourceFiles(data)("zero/0.png") is None

    def forbidden(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("discl.data.load_data", forbidden)
    assert SourceFiles(data)("zero/0.png") is None


def test_a_selection_by_another_scorer_is_shown_with_its_scores(run):
    store = Store(run / "spectrum")
    folder = store.path / "scores" / "other"
    folder.mkdir(parents=True)
    (folder / "scorer.json").write_text(json.dumps({"clip": "ViT-Z", "digest": "d" * 32}))
    keys = store.table["key"].to_pylist()
    scores = [round(0.01 * place, 2) for place in range(len(keys))]
    columns = {"key": keys, "text_score": pa.array(scores, pa.float32()), "margin": pa.array(scores, pa.float32()),
               "rank": pa.array([1] * len(keys), pa.int32())}  # fmt: skip
    pq.write_table(pa.table(columns), folder / "000000.parquet")
    filter_store(store.path, Rules(threshold=0.1), scorer="other")
    facts = store_facts(store)
    assert facts.score.tolist() == facts.margin.tolist() == pytest.approx(scores) and facts.threshold == 0.1
    assert facts.kept.tolist() == ((facts.status == "ok") & (np.array(scores) >= 0.1)).tolist()
    assert "text score of at least 0.1, by the scores of ViT-Z" in report_runs([store.path]).read_text()
    (folder / "000000.parquet").unlink()
    facts = store_facts(store)
    assert facts.threshold is None and facts.score[0] == np.float32(store.table["text_score"][0].as_py())
    assert report_runs([store.path]).is_file()


def test_stages_add_up_to_the_seconds_of_the_runs(run):
    rows = stages([RECORD, RECORD], {"seconds": {"train": 7.0}})
    assert sum(row["seconds"] for row in rows) == pytest.approx(2 * (2 + 10) + 7)
    assert [row["unet_evaluations"] for row in rows if "unet_evaluations" in row] == [1000]


def test_several_runs_share_one_table_under_their_names(run, tmp_path):
    other = tmp_path / "run-b"
    other.mkdir()
    (other / "metrics.json").write_text(json.dumps({"overall": 0.75, "few": 0.5, "macro_f1": 0.7}))
    methods = merged_metrics([open_run(run), open_run(other)])["methods"]
    assert methods["run-b"]["few"] == {"mean": 0.5, "std": None}
    assert list(methods) == ["run-a ce", "run-b"]
    text = " ".join(Page(report_runs([run, other]).read_text()).text)
    assert "run-b" in text and "75.0" in text


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="neither a run"):
        report_runs([tmp_path])


def test_a_damaged_metrics_file_is_named(run):
    (run / "metrics.json").write_text("{")
    with pytest.raises(ConfigError, match=r"metrics\.json: cannot be read"):
        report_runs([run])
