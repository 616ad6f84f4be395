"""The report is one closed HTML file whose numbers are the store's."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from discl.report import write_report
from discl.report.acceptance import accepted_counts, rule_in_words
from discl.report.facts import store_facts
from discl.report.html import VOID, tag
from discl.report.spectrum import choose_sources
from discl.report.threshold import BINS, explorer_data, score_axis, spread, start_threshold
from tests.discl.fake_store import LEVELS, METHODS, NASTY, THRESHOLD, FakeStore, index_rows, png


class Page(HTMLParser):
    """Checks nesting and collects what the tests look at."""

    def __init__(self, text: str):
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == [], f"left open: {self.stack}"

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))
        if name not in VOID:
            self.stack.append(name)

    def handle_endtag(self, name):
        assert self.stack.pop() == name

    def handle_data(self, data):
        (self.scripts if self.stack[-1:] == ["script"] else self.text).append(data)

    def named(self, name: str) -> list[dict]:
        return [attributes for tag_name, attributes in self.tags if tag_name == name]

    def json(self) -> dict:
        places = [n for n, attributes in enumerate(self.named("script")) if attributes.get("type")]
        return json.loads(self.scripts[places[0]])


@pytest.fixture(scope="module")
def rows():
    return index_rows()


@pytest.fixture(scope="module")
def html(rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    written = write_report(
        out,
        title=f"run of {NASTY}",
        store=FakeStore(rows),
        sources=lambda source: png(9) if source != "s1" else None,
        metrics={"methods": METHODS, "seeds": [0, 1, 2, 3, 4], "steps": 100},
        config={"data": {"kind": "csv", "root": NASTY}, "spectrum": {"levels": LEVELS, "steps": 20}},
        stages=[{"stage": "generate", "seconds": 12.5, "unet_evaluations": 1234}],
        versions={"discl": "0.1.0"},
    )
    assert written == out
    return out.read_text("utf-8")


def test_it_is_well_formed_and_has_every_section(html):
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    sections = ["spectrum", "acceptance", "coverage", "threshold", "boundary", "results", "cost", "provenance"]
    assert [section["id"] for section in page.named("section")] == sections
    assert [link["href"] for link in page.named("a")] == [f"#{name}" for name in sections]


def test_it_reaches_for_nothing_outside_itself(html):
    page = Page(html)
    for name, attributes in page.tags:
        assert name not in {"link", "iframe", "object", "embed", "base"}
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|url\(", html)
    policy = next(meta for meta in page.named("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy["content"]


def test_user_text_is_shown_and_never_run(html):
    page = Page(html)
    assert "<script>alert" not in html
    assert len(page.named("script")) == 2
    assert any(NASTY in text for text in page.text)
    assert page.json()["classes"] == ["zero", "one", NASTY]


def test_embedded_columns_are_the_stores(html, rows):
    data = Page(html).json()
    scored = [row for row in rows if row["status"] == "ok"]
    start = float(next(each for each in Page(html).named("input") if each["id"] == "slider")["data-start"])
    assert start == np.float32(THRESHOLD)
    told = start + np.array(data["score"]) / 10_000
    np.testing.assert_array_less(told, [row["text_score"] + 1e-6 for row in scored])
    np.testing.assert_array_less([row["text_score"] - 1e-6 for row in scored], told + 1e-4)
    assert [data["levels"][place] for place in data["level"]] == [row["level"] for row in scored]
    assert [data["classes"][place] for place in data["class"]] == [row["class_name"] for row in scored]
    assert data["kept"] == [int(row["text_score"] >= THRESHOLD) for row in scored]
    assert sorted(map(int, data["pictures"])) == list(range(len(scored)))


def test_the_grid_shows_every_sample_of_a_small_store(html, rows):
    page = Page(html.split('id="boundary"')[0].rpartition("<section")[0] + "</main></body></html>")
    alts = [image["alt"] for image in page.named("img")]
    assert sum(alt.startswith("hard image") for alt in alts) == 5  # the sixth is not on disk
    assert sum(", level " in alt for alt in alts) == sum(row["shard"] is not None for row in rows)
    badges = [text for text in page.text if text.startswith("✕ 0.")]
    dropped = [r for r in rows if r["status"] != "ok" or r["text_score"] < THRESHOLD]
    assert len(badges) == sum(row["text_score"] is not None for row in dropped)
    assert f"✕ {dropped[0]['text_score']:.2f}" in badges


def test_counts_by_class_and_level_equal_a_plain_count(rows):
    facts = store_facts(FakeStore(rows))
    counts = accepted_counts(facts)
    for row, name in enumerate(facts.class_names.values()):
        for column, level in enumerate(facts.levels):
            made = [r for r in rows if (r["class_name"], r["level"]) == (name, level)]
            good = [r for r in made if r["status"] == "ok" and r["text_score"] >= THRESHOLD]
            assert counts[row, column].tolist() == [len(good), len(made)]


def test_result_table_prints_means_deviations_and_the_gain(html):
    text = " ".join(Page(html).text)
    assert "60.0" in text and "± 2.0" in text and "+7.0" in text
    assert "over 5 training seeds" in text and "100 optimizer steps" in text


def test_without_store_or_metrics_only_what_is_known_is_shown(tmp_path):
    page = Page(write_report(tmp_path / "r.html", title="bare", config={"train": {"lr": 0.1}}).read_text())
    assert [section["id"] for section in page.named("section")] == ["provenance"]


def test_an_unscored_store_has_no_slider(tmp_path):
    rows = [{**row, "text_score": None, "status": "error"} for row in index_rows()]
    out = write_report(tmp_path / "r.html", title="unscored", store=FakeStore(rows))
    assert not [field for field in Page(out.read_text()).named("input") if field["type"] == "range"]


def test_a_large_store_stays_below_five_megabytes_and_says_what_it_shows(tmp_path):
    rows = index_rows(sources=10_000, names=tuple(f"class {n}" for n in range(500)))
    out = write_report(tmp_path / "r.html", title="large", store=FakeStore(rows))
    assert out.stat().st_size < 5_000_000
    text = " ".join(Page(out.read_text()).text)
    assert "12 of 10,000 sources" in text and "40,000 of 59,998" in text
    assert out.read_bytes() == write_report(out, title="large", store=FakeStore(rows)).read_bytes()


def test_sources_are_taken_from_every_class_by_turns(rows):
    facts = store_facts(FakeStore(rows))
    assert choose_sources(facts, 3) == ["s0", "s1", "s2"]
    assert choose_sources(facts, 4) == ["s0", "s3", "s1", "s2"]
    assert sorted(choose_sources(facts, 99)) == [f"s{n}" for n in range(6)]


@pytest.mark.parametrize("seed", range(5))
def test_the_axis_covers_every_score_with_few_round_bins(seed):
    generator = np.random.default_rng(seed)
    score = generator.normal(generator.uniform(-0.5, 0.5), generator.uniform(1e-4, 0.3), 50).astype(np.float32)
    axis = score_axis(score)
    assert axis["low"] <= score.min() and score.max() < axis["high"]
    assert (axis["high"] - axis["low"]) / axis["width"] <= BINS + 1e-6


def test_spread_keeps_order_ends_and_limit():
    score = np.random.default_rng(3).random(1000).astype(np.float32)
    chosen = spread(np.arange(1000), score, 50)
    assert len(set(chosen.tolist())) == 50 and (np.diff(chosen) > 0).all()
    assert score[chosen].min() == score.min() and score[chosen].max() == score.max()
    assert spread(np.arange(10), score, 50).tolist() == list(range(10))


def test_the_slider_starts_at_the_runs_threshold(rows):
    axis = {"low": 0.0, "high": 1.0, "width": 0.1}
    own = {"default": 0.2, "classes": {"zero": 0.4}, "levels": {}}
    plain = {"default": 0.2, "classes": {}, "levels": {}}
    kept = min(r["text_score"] for r in rows if r["status"] == "ok" and r["text_score"] >= THRESHOLD)
    assert start_threshold(store_facts(FakeStore(rows)), axis) == np.float32(THRESHOLD)
    assert start_threshold(store_facts(FakeStore(rows, plain)), axis) == np.float32(0.2)
    other = FakeStore(rows)
    other.rule |= {"threshold": 0.9, "scorer": {"clip": "another"}}  # in units that this page does not show
    assert start_threshold(store_facts(other), axis) == pytest.approx(kept)
    assert start_threshold(store_facts(FakeStore(rows, own)), axis) == pytest.approx(kept)


@pytest.mark.parametrize("seed", range(20))
def test_at_the_runs_threshold_nothing_moves(seed):
    """Scores lie as near to the threshold as float32 has them, on it too."""
    random, rows = np.random.default_rng(seed), index_rows()
    threshold = float(random.uniform(0.1, 0.9))
    store = FakeStore(rows, threshold)
    near = [row for row in rows if row["status"] == "ok"]
    for row in near:
        score = np.float32(threshold) + np.float32(random.choice([0, 1e-7, 1e-5, 1e-3])) * np.float32(random.normal())
        row["text_score"] = float(score)
    store.table = store.table.from_pylist(rows, schema=store.table.schema)
    store.keys = [row["key"] for row in near if np.float32(row["text_score"]) >= np.float32(threshold)]
    facts = store_facts(store)
    shown = np.flatnonzero(facts.scored)
    axis = score_axis(facts.score[shown])
    data = explorer_data(facts, shown, axis, start_threshold(facts, axis))
    assert [int(score >= 0) for score in data["score"]] == data["kept"], f"seed {seed}"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"rule": "all"}, "every finished image"),
        ({"threshold": 0.25}, "text score of at least 0.25"),
        ({"threshold": {"default": 0.2, "levels": {"30": 0.3}}}, "text score at thresholds by class and level"),
        ({"rule": "filter", "quantile": 0.5, "by": "class", "best": 2}, "quantile 0.5, by class, best 2"),
        ({"threshold": 0.25, "minimum": 1}, "text score of at least 0.25, minimum 1"),
        ({"rule": "filter", "threshold": {"default": 0.9}, "scorer": {"clip": "ViT-L-14"}},
         "text score of at least 0.9, by the scores of ViT-L-14"),
    ],
)  # fmt: skip
def test_the_rule_is_told_in_words(rows, rule, words):
    store = FakeStore(rows)
    store.rule = rule
    assert rule_in_words(store_facts(store)) == words


def test_tags_escape_text_and_attributes():
    assert tag("p", "<b>&", title='"<', hidden=True, lang=None) == ('<p title="&quot;&lt;" hidden>&lt;b&gt;&amp;</p>')


def test_the_pairs_nearest_to_the_threshold_are_the_lowest_kept_and_the_highest_left_out(html, rows):
    """Beside each the source; as the store says, not as the page's code counts."""
    part = html.split('id="boundary"')[1].split("</section>")[0]
    captions = re.findall(r"<figcaption>([-0-9.]+), level", part)
    scored = [row for row in rows if row["status"] == "ok" and row["text_score"] is not None]
    kept = sorted(row["text_score"] for row in scored if row["text_score"] >= THRESHOLD)[:8]
    left = sorted((row["text_score"] for row in scored if row["text_score"] < THRESHOLD), reverse=True)[:8]
    assert captions == [f"{score:.3f}" for score in kept + left]
    assert part.count("<img") + part.count("no source") == 2 * len(captions)


def test_nearest_is_counted_from_the_threshold_of_the_class_and_level(tmp_path, rows):
    limits = {"zero": 0.15, "one": 0.3, NASTY: 0.45}
    store = FakeStore(rows, {"default": 0.0, "classes": limits, "levels": {"30": 0.1}})
    good = [row for row in rows if row["status"] == "ok"]
    over = {row["key"]: row["text_score"] - limits[row["class_name"]] for row in good}
    store.keys = [key for key in over if over[key] >= 0]
    page = write_report(tmp_path / "r.html", title="t", store=store).read_text()
    part = page.split('id="boundary"')[1].split("</section>")[0]
    kept = sorted((key for key in over if over[key] >= 0), key=over.get)[:8]
    left = sorted((key for key in over if over[key] < 0), key=over.get, reverse=True)[:8]
    score = {row["key"]: row["text_score"] for row in good}
    assert re.findall(r"<figcaption>([-0-9.]+), level", part) == [f"{score[key]:.3f}" for key in kept + left]


def test_the_explorer_says_when_more_than_its_threshold_chose(tmp_path, rows):
    def explorer(store):
        page = write_report(tmp_path / "r.html", title="t", store=store).read_text()
        return page.split('id="threshold"')[1].split("</section>")[0]

    assert "rest of the rule" not in explorer(FakeStore(rows))
    store = FakeStore(rows)
    store.rule |= {"best": 1}
    store.keys = store.keys[::2]
    told = explorer(store)
    assert "text score of at least 0.3, best 1" in told and "rest of the rule" in told


@pytest.mark.parametrize(("threshold", "shown"), [(0.9, 0.9), (0.02, 0.02), (-1.0, None)])
def test_a_threshold_beyond_every_score_is_on_the_axis(tmp_path, rows, threshold, shown):
    """-1 is no threshold: there the axis is that of the scores."""
    store = FakeStore(rows, threshold)
    store.keys = [row["key"] for row in rows if row["status"] == "ok" and row["text_score"] >= threshold]
    page = Page(write_report(tmp_path / "r.html", title="t", store=store).read_text())
    axis = page.json()["axis"]
    start = float(next(each for each in page.named("input") if each["id"] == "slider")["data-start"])
    assert axis["low"] <= start <= axis["high"]
    assert start == (axis["low"] if shown is None else pytest.approx(shown)) and axis["low"] > -0.5


def test_coverage_counts_classes_holes_and_further_seeds(tmp_path, rows):
    page = write_report(tmp_path / "r.html", title="t", store=FakeStore(rows), config={"spectrum": {"seeds": [10]}})
    part = page.read_text().split('id="coverage"')[1].split("</section>")[0]
    kept = [row for row in rows if row["status"] == "ok" and row["text_score"] >= THRESHOLD]
    covered = {(row["source_id"], row["level"]) for row in kept}
    planned = {(row["source_id"], row["level"]) for row in kept if row["seed"] == 10}
    wanted = 6 * len(LEVELS)
    assert f"Of {wanted} pairs {len(covered)} are covered and {wanted - len(covered)} are holes" in part
    assert (
        len(covered) > len(planned) and f"{len(covered) - len(planned)} of the covered are so by further seeds" in part
    )
    of_zero = [row for row in rows if row["class_id"] == 0 and row["level"] == 0]
    assert f"<td>{sum(row in kept for row in of_zero)} / {len(of_zero)}</td>" in part


def test_every_hole_and_what_further_seeds_filled_stands_in_the_row_of_its_source(tmp_path, rows):
    page = write_report(tmp_path / "r.html", title="t", store=FakeStore(rows), config={"spectrum": {"seeds": [10]}})
    part = page.read_text().split('id="coverage"')[1].split("</section>")[0]
    told = dict(re.findall(r"<tr><th scope=\"row\">(s\d)</th>(.*?)</tr>", part))
    for source in {row["source_id"] for row in rows}:
        cells = []
        for level in LEVELS:
            made = [row for row in rows if (row["source_id"], row["level"]) == (source, level)]
            kept = [row["seed"] for row in made if row["status"] == "ok" and row["text_score"] >= THRESHOLD]
            word = "" if 10 in kept else "filled " if kept else "hole "
            cells.append(f"{word}{len(kept)} / {len(made)}")
        if any(cell[0].isalpha() for cell in cells):
            assert re.findall(r">([^<>]+)</td>", told[source]) == cells
        else:
            assert source not in told
    assert {word for cells in told.values() for word in re.findall("hole|filled", cells)} == {"hole", "filled"}


def test_tables_have_a_style_of_their_own(html):
    """A browser's own sets columns without any space between them."""
    assert all(table.get("class") for table in Page(html).named("table"))
