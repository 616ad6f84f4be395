"""The report as a browser sees it: it fits a phone, the slider moves samples. Skipped without Chromium."""

import json
import re
import shutil
import subprocess

import pytest

from discl.report import write_report
from tests.discl.fake_store import METHODS, FakeStore, index_rows

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium")
FRAMES = """<body><pre id="told"></pre><script>
const told = {}; addEventListener("message", (event) => {
  told[event.data[0]] = event.data; document.getElementById("told").textContent = JSON.stringify(told); });
</script><iframe src="probe.html" style="width:1280px"></iframe>
<iframe src="probe.html" style="width:390px"></iframe>"""
BADGES = """<script>addEventListener("load", () => {
  const bottom = (part) => part.getBoundingClientRect().bottom;
  const within = (cell) => Math.abs(bottom(cell.firstElementChild) - bottom(cell.querySelector(".score"))) < 2;
  document.title = [...document.querySelectorAll(".spectrum td.drop")].every(within) ? "within" : "apart";
});</script>"""
PROBE = """<script>addEventListener("load", () => parent.postMessage(
  [innerWidth, document.documentElement.scrollWidth,
   document.documentElement.clientWidth], "*"));</script>"""


def dom(address: str, profile) -> str:
    """The page's HTML after its scripts ran."""
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--no-first-run", f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom", address,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def output(page: str, name: str) -> str:
    return re.search(rf'<output[^>]*id="{name}"[^>]*>([^<]*)<', page)[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("browser") / "report.html"
    names = ("a class with a rather long name of many words", "Unbreakable" * 9, "zero")
    metrics = {"methods": METHODS, "seeds": [0, 1], "steps": 10}
    config = {"spectrum": {"prompt": "a very long prompt " * 12}}
    return write_report(out, title="x" * 200, store=FakeStore(index_rows(names=names)), metrics=metrics, config=config)


def test_the_slider_moves_exactly_the_samples_between_the_thresholds(report, tmp_path):
    scores = [row["text_score"] for row in index_rows() if row["status"] == "ok"]
    for threshold in (0.2, 0.3, 0.42):
        page = dom(f"file://{report}#t={threshold}", tmp_path / "profile")
        assert output(page, "threshold-value") == f"{threshold:.3f}"
        assert int(output(page, "in-count")) == sum(threshold <= score < 0.3 for score in scores)
        assert int(output(page, "out-count")) == sum(0.3 <= score < threshold for score in scores)


def test_no_page_scrolls_sideways_on_a_desk_or_a_phone(report, tmp_path):
    (tmp_path / "probe.html").write_text(report.read_text().replace("</body>", PROBE + "</body>"))
    (tmp_path / "frames.html").write_text(FRAMES)
    page = dom(f"file://{tmp_path / 'frames.html'}", tmp_path / "profile")
    told = json.loads(re.search(r'<pre id="told">([^<]*)<', page)[1])
    assert len(told) == 2
    for _, needed, given in told.values():
        assert needed <= given


def test_a_score_stands_on_its_image_beside_a_long_class_name(report, tmp_path):
    (tmp_path / "page.html").write_text(report.read_text().replace("</body>", BADGES + "</body>"))
    assert "<title>within</title>" in dom(f"file://{tmp_path / 'page.html'}", tmp_path / "profile")


def test_a_sample_of_a_large_store_is_not_called_all_of_it(tmp_path):
    rows = index_rows(sources=7000)
    page = dom(f"file://{write_report(tmp_path / 'r.html', title='t', store=FakeStore(rows))}", tmp_path / "profile")
    assert re.fullmatch(r"\d+% accepted \([\d,]+ of the 40,000 shown\); every class has some.", output(page, "summary"))
