"""Early rejection on the demo's model: network rows per accepted image, at limits of the false-reject rate.

`rejection_traces` makes the samples, all of which run to their end. The threshold is where 45 % are accepted, pooled
over levels. Sources are split, never samples: one part fits the predictors, one sets the bounds, the rest is judged. A
round is another split. A look costs what it was measured to cost in network rows, in a run with rejection. `oracle`
knows every score after one look at the first check.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.ablation import ablation
from benchmarks.rejection_outcome import Outcome, accepted_without, keep_replay, oracle
from benchmarks.rejection_traces import (
    GUIDANCE,
    LEVELS,
    SLOTS,
    STEPS,
    demo_engine,
    kept_trace,
    requests,
    sources,
    split,
    trace,
)
from benchmarks.timing import record
from discl import Engine, Request
from discl.engine.rejection import Judge, Rule
from discl.engine.rejection.calibration import LOOK_COST, calibrate

LIMITS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TARGETS = {0.02: 0.15, 0.1: 0.25}  # limit -> share of the rows that is to be saved
COMPARED = 60  # sources whose samples are made in time, with and without rejection


def measured_look(engine: Engine, rule: Rule, wishes: list[Request]) -> tuple[float, float]:
    """Network rows that a look's time would have bought, and the seconds of a row, in a run that rejects."""
    before = dict(engine.stats.seconds), engine.stats.previews, engine.stats.unet_evaluations
    engine.reject_by(Judge(rule, engine.scorer))
    for _ in engine.run(wishes):
        pass
    spent = {name: engine.stats.seconds[name] - before[0].get(name, 0.0) for name in ("preview", "verdict", "unet")}
    looks = engine.stats.previews - before[1]
    row = spent["unet"] / (engine.stats.unet_evaluations - before[2])
    return (spent["preview"] + spent["verdict"]) / looks / row if looks else LOOK_COST, row


def print_curve(curve: dict[float, list[Outcome]], bounds: list[tuple[float, float]], plain: list[float]) -> None:
    levels = [each.level for each in next(iter(curve.values()))[0].traces]
    print(
        f"\n{'limit':>7} {'false':>7} {'rejected':>9} {'saved':>7}   " + " ".join(f"{f'level {n}':>9}" for n in levels)
    )
    for limit, outcomes in curve.items():
        false = np.mean([each.false_rejects() for each in outcomes])
        gone = np.mean([np.concatenate(each.rejected).mean() for each in outcomes])
        saved = np.mean([1 - none / each.accepted_per_row() for each, none in zip(outcomes, plain, strict=True)])
        by_level = np.mean([each.saved() for each in outcomes], 0)
        asked = f"   (asked: {TARGETS[limit]:.0%})" if limit in TARGETS else ""
        print(
            f"{limit:7.1%} {false:7.2%} {gone:9.1%} {saved:7.1%}   " + " ".join(f"{n:9.1%}" for n in by_level) + asked
        )
    print("oracle   " + ", ".join(f"{saved:.1%} at {share:.0%} of the steps" for share, saved in bounds))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=4, help="of every source and level")
    parser.add_argument("--traces", type=Path, dest="kept", metavar="FOLDER", help="read from here, or made and kept")
    parser.add_argument("--only-trace", action="store_true", help="stop when they are made: nothing is timed so far")


def run(small: bool = False, seeds: int = 4, kept: Path | None = None, only_trace: bool = False) -> dict | None:
    seeds, rounds, chosen = (1, 2, sources()[:200]) if small else (seeds, 5, sources())
    limits = (0.2, 0.3) if small else LIMITS
    engine = demo_engine()
    decoder, texts, traces, threshold = (
        kept_trace(kept, engine, chosen, seeds) if kept else trace(engine, chosen, seeds)
    )
    if only_trace:
        return None
    limit_of = {"default": threshold, "classes": {}, "levels": {}}
    parts = [split(traces, seed, (0.6, 0.2, 0.2) if small else (0.3, 0.5, 0.2)) for seed in range(rounds)]
    rules = {
        limit: [
            calibrate(engine.signature, decoder, texts, *part[:2], limit_of, limit, engine.guided) for part in parts
        ]
        for limit in limits
    }
    look, row_seconds = measured_look(engine, rules[max(limits)][0], requests(chosen[-len(chosen) // 4 :], 1))
    curve = {
        limit: [Outcome(rule, part[2], look) for rule, part in zip(found, parts, strict=True)]
        for limit, found in rules.items()
    }
    plain = [accepted_without(part[2]) for part in parts]
    bounds = oracle(traces, look)
    print_curve(curve, bounds, plain)
    if not small:
        keep_replay(curve[0.02][0])
    unseen = set(parts[0][2][0].group.tolist())
    wishes = requests([source for source in chosen if source[0] in unseen][:COMPARED], 1)
    judge = Judge(rules[max(limits) if small else max(TARGETS)][0], engine.scorer)
    ablation(engine, judge, wishes, threshold, not small, repeats=2 if small else 5, limit=judge.rule.limit)
    rates = {"no rejection": np.array(plain), "oracle": np.array(plain) / (1 - bounds[0][1])}
    rates |= {f"limit {limit:g}": np.array([each.accepted_per_row() for each in curve[limit]]) for limit in limits}
    return record(
        "rejection",
        {name: 1000 * values for name, values in rates.items()},
        "accepted images per 1000 network rows",
        {f"{name} / none": (name, "no rejection") for name in rates if name != "no rejection"},
        keep=not small,
        false_rejects={f"{limit:g}": [round(each.false_rejects(), 4) for each in curve[limit]] for limit in limits},
        saved_by_level={f"{limit:g}": np.mean([each.saved() for each in curve[limit]], 0).tolist() for limit in limits},
        false_rejects_by_level={
            f"{limit:g}": np.mean([each.false_by_level() for each in curve[limit]], 0).tolist() for limit in limits
        },
        false_rejects_by_text={f"{limit:g}": curve[limit][0].by_class() for limit in limits},
        levels=LEVELS,
        steps=STEPS,
        text_guidance=GUIDANCE,
        slots=SLOTS,
        threshold=threshold,
        samples=sum(map(len, traces)),
        look_in_rows=look,
        row_seconds=row_seconds,
        oracle=bounds,
    )
