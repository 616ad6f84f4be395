"""What the user sees of long work: a line every ten seconds, and figures that add up."""

import io

import pytest

from discl.progress import Bar, Lines, Meter, describe, duration


def progress(done: int, total: int = 100) -> dict:
    return {
        "event": "progress",
        "stage": "generate",
        "done": done,
        "total": total,
        "rate": 2.0,
        "eta_s": 90.0,
    }


def test_lines_come_every_ten_seconds_and_at_the_end():
    now, stream = [0.0], io.StringIO()
    show = Lines(stream, clock=lambda: now[0])
    for done in range(1, 101):
        now[0] += 0.3
        show(progress(done))
    shown = [int(line.split()[1].split("/")[0]) for line in stream.getvalue().splitlines()]
    assert shown == [34, 68, 100]


def test_a_total_that_nobody_knows_is_not_shown_and_makes_no_line_the_last():
    stream = io.StringIO()
    meter = Meter("import", 0, Lines(stream, clock=lambda: 0.0))
    meter.start()
    meter.advance(count=3)
    assert stream.getvalue() == "import 0\n"
    assert describe(meter.event(scored=False)).startswith("import 3, ") and "left" not in describe(meter.event(False))


def test_the_terminal_gets_one_line_per_stage():
    stream = io.StringIO()
    show = Bar(stream)
    show({"event": "quarantined", "path": "x", "reason": "y"})
    for done in range(1, 101):
        show(progress(done))
    show.close()
    assert stream.getvalue().count("generate 100/100, 2/s") == 1


def test_other_events_are_not_shown():
    stream = io.StringIO()
    Lines(stream)({"event": "quarantined", "path": "x", "reason": "y"})
    assert stream.getvalue() == ""


def test_the_meter_counts_acceptance_and_cost():
    events = []
    meter = Meter("generate", 4, events.append, usd_per_hour=3600.0)
    for accepted in (True, False, True, True):
        meter.advance(accepted)
    last = events[-1]
    assert (last["done"], last["total"], last["accepted"]) == (4, 4, 0.75)
    assert last["usd"] == pytest.approx(last["seconds"])
    assert last["rate"] == pytest.approx(4 / last["seconds"])
    assert last["eta_s"] == 0


def test_a_line_names_rate_time_left_acceptance_and_cost():
    event = {**progress(120, 400), "accepted": 0.46, "usd": 0.123}
    assert describe(event) == "generate 120/400, 2/s, 1m 30s left, 46 % accepted, $0.12"
    for usd, shown in [(0.0031, "$0.0031"), (0.0, "$0.00")]:
        assert describe(event | {"usd": usd}).endswith(f", {shown}")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.6, "1m 00s"), (61, "1m 01s"), (7260, "2h 01m")])
def test_durations(seconds, text):
    assert duration(seconds) == text
