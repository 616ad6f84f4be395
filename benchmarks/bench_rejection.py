"""Early rejection on the demo's model: network rows per accepted image, at limits of the false-reject rate.

Every handwritten digit outside of the demo's validation and test splits is a source; all levels and several seeds of it
run to their end while a tracer looks at them. The threshold is where 45 % are accepted, pooled over levels. Sources are
split, never samples: one part fits the predictors, one sets the bounds, the rest is judged. A round is another split.
A look costs what it was measured to cost in network rows, in a run with rejection. `oracle` knows every score after one
look at the first check.
"""

import argparse
import json
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.ablation import ablation
from benchmarks.replay import TRACE
from benchmarks.timing import record
from discl import Engine, Request
from discl.data.digits import CLASS_NAMES, split_rows
from discl.engine.rejection import Judge, LatentTracer, Rule, Tracer
from discl.engine.rejection.calibration import LOOK_COST, calibrate
from discl.engine.rejection.decoder import SmallDecoder
from discl.engine.rejection.recording import distil, gather
from discl.engine.rejection.search import cost, saving
from discl.engine.rejection.traces import Traces, load_traces, save_traces
from discl.errors import DisclError

LEVELS, STEPS, GUIDANCE, SLOTS = (0, 10, 30, 50), 20, 1.5, 64
PROMPT = "a photo of the digit {class}"
ACCEPTED = 0.45
LIMITS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TARGETS = {0.02: 0.15, 0.1: 0.25}  # limit -> share of the rows that is to be saved
COMPARED = 60  # sources whose samples are made in time, with and without rejection
DISTILLED = 60  # sources whose samples fit the decoder and nothing else


def sources() -> list[tuple[str, str, Image.Image]]:
    """Id, class name and picture of every digit that the demo neither validates nor tests on, shuffled."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    splits = split_rows(digits.target)
    taken = set(np.concatenate([*splits["val"], *splits["test"]]).tolist())
    rows = np.random.default_rng(0).permutation([row for row in range(len(digits.target)) if row not in taken])
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    enlarged = lambda row: Image.fromarray(pixels[row]).convert("RGB").resize((32, 32), Image.Resampling.LANCZOS)  # noqa: E731
    return [(f"{row:04d}", CLASS_NAMES[digits.target[row]], enlarged(row)) for row in rows.tolist()]


def requests(chosen: list, seeds: int) -> list[Request]:
    return [
        Request(
            image,
            PROMPT.replace("{class}", name),
            level,
            noise_seed=1000 * int(source) + seed,
            class_name=name,
            source_id=source,
            key=f"{source}-{seed}-{level}",
        )
        for source, name, image in chosen
        for seed in range(seeds)
        for level in LEVELS
    ]


def demo_engine() -> Engine:
    assets = files("discl.demo") / "assets"
    settings = {"steps": STEPS, "text_guidance": GUIDANCE, "slots": SLOTS, "device": "cpu", "score_prompt": PROMPT}
    return Engine.from_pretrained(str(assets / "generator"), clip=str(assets / "clip"), **settings)


def trace(engine: Engine, chosen: list, seeds: int) -> tuple[SmallDecoder, tuple[str, ...], list[Traces], float]:
    """The decoder, the texts, the traces of all but the first sources, and the threshold."""
    first = min(DISTILLED, len(chosen) // 4)
    engine.reject_by(LatentTracer())
    decoder = distil(engine, engine.run(requests(chosen[:first], 1)))
    texts = tuple(PROMPT.replace("{class}", name) for name in CLASS_NAMES)
    engine.reject_by(Tracer(decoder, texts))
    samples = list(engine.run(requests(chosen[first:], seeds)))
    threshold = float(np.float32(np.quantile([sample.text_score for sample in samples], 1 - ACCEPTED)))
    traces = gather(engine, samples, lambda sample: threshold)
    return decoder, texts, list(traces.values()), threshold


def kept_trace(folder: Path, engine: Engine, chosen: list, seeds: int):
    """What `trace` gives, from the folder if it was made before: it takes long and is no measurement of time."""
    about, file = folder / "about.json", folder / "traces.npz"
    if about.is_file():
        known = json.loads(about.read_text())
        if known["made_for"] != engine.signature or known["seeds"] != seeds:
            raise DisclError(f"{folder}: traces of another model or number of seeds; name another folder")
        return SmallDecoder.from_json(known["decoder"]), tuple(known["texts"]), load_traces(file), known["threshold"]
    decoder, texts, traces, threshold = trace(engine, chosen, seeds)
    folder.mkdir(parents=True, exist_ok=True)
    save_traces(file, traces)
    known = {"made_for": engine.signature, "seeds": seeds, "texts": texts, "threshold": threshold}
    about.write_text(json.dumps({**known, "decoder": decoder.to_json()}))
    return decoder, texts, traces, threshold


def split(traces: list[Traces], seed: int, parts: tuple[float, ...]) -> list[list[Traces]]:
    """Traces of disjoint sources, in these shares."""
    names = np.random.default_rng(seed).permutation(np.unique(traces[0].group))
    cuts = [0, *(np.cumsum(parts) * len(names)).round().astype(int).tolist()]
    return [[each.take(np.isin(each.group, names[a:b])) for each in traces] for a, b in pairwise(cuts)]


class Outcome:
    """What a rule does to traces that it has not seen, one entry a level."""

    def __init__(self, rule: Rule, traces: list[Traces], look_rows: float):
        self.traces, self.rows = traces, 2 * np.array([each.steps for each in traces])
        self.spent, self.rejected, self.looks = zip(
            *(self._level(rule, each, look_rows) for each in traces), strict=True
        )

    def _level(self, rule: Rule, traces: Traces, look_rows: float):
        """Rows spent [n], whether rejected [n], and the shares of the steps at which each is looked at [n, checks]."""
        level, full = rule.levels[traces.level], 2.0 * traces.steps
        if level.bound is None:
            return np.full(len(traces), full), np.zeros(len(traces), bool), np.empty((len(traces), 0))
        decided = rule.decide(traces)
        below, checks = decided.value < level.bound, [check.step for check in level.checks]
        spent, rejected = cost(decided.looked, below, checks, traces.steps, 2.0, look_rows)
        going = np.cumsum(below, 1) - below == 0  # up to the verdict
        return spent, rejected, np.where(decided.looked & going, np.array(checks) / traces.steps, np.nan)

    def accepted_per_row(self) -> float:
        kept = sum((each.accepted & ~gone).sum() for each, gone in zip(self.traces, self.rejected, strict=True))
        return kept / sum(spent.sum() for spent in self.spent)

    def false_rejects(self) -> float:
        """Share of the accepted that are rejected, pooled over levels."""
        wrong = sum((each.accepted & gone).sum() for each, gone in zip(self.traces, self.rejected, strict=True))
        return float(wrong / sum(each.accepted.sum() for each in self.traces))

    def false_by_level(self) -> list[float]:
        parts = zip(self.traces, self.rejected, strict=True)
        return [float((each.accepted & gone).sum() / each.accepted.sum()) for each, gone in parts]

    def saved(self) -> list[float]:
        """Share of the rows per accepted image that are saved, by level."""
        parts = zip(self.spent, self.rejected, self.traces, self.rows, strict=True)
        return [saving(spent, gone, each.accepted, float(rows)) for spent, gone, each, rows in parts]

    def by_class(self) -> dict[str, float]:
        """False rejects by text, pooled over levels."""
        texts = np.concatenate([each.text for each in self.traces])
        good, gone = (np.concatenate(part) for part in ([each.accepted for each in self.traces], self.rejected))
        return {str(text): round(float(gone[good & (texts == text)].mean()), 3) for text in np.unique(texts[good])}


def oracle(traces: list[Traces], look_rows: float) -> list[tuple[float, float]]:
    """Perfect foresight at the n-th candidate check of every level: (mean share of the steps done, rows saved)."""
    points = []
    for number in range(min(len(each.checks) for each in traces)):
        spent = kept = full = 0.0
        for each in traces:
            rows = np.where(each.accepted, each.steps, each.checks[number]) * 2.0 + look_rows
            spent, kept, full = spent + rows.sum(), kept + each.accepted.sum(), full + 2.0 * each.steps * len(each)
        done = float(np.mean([each.checks[number] / each.steps for each in traces]))
        points.append((done, 1 - spent / full))
    return points


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
        limit: [calibrate(engine.signature, decoder, texts, *part[:2], limit_of, limit) for part in parts]
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


def accepted_without(traces: list[Traces]) -> float:
    """Accepted images per network row when everything runs to its end."""
    return sum(each.accepted.sum() for each in traces) / sum(2.0 * each.steps * len(each) for each in traces)


def keep_replay(outcome: Outcome) -> None:
    """What `benchmarks.replay` plays, a row a sample: level, whether its image would be accepted, whether it is given
    up, and the shares of its steps at which it is looked at, the last one the verdict's; NaN fills up."""
    most = max(looks.shape[1] for looks in outcome.looks)
    filled = [np.pad(looks, ((0, 0), (0, most - looks.shape[1])), constant_values=np.nan) for looks in outcome.looks]
    columns = {
        "level": np.concatenate([np.full(len(each), each.level, np.int16) for each in outcome.traces]),
        "accepted": np.concatenate([each.accepted for each in outcome.traces]),
        "rejected": np.concatenate(outcome.rejected),
        "looks": np.concatenate(filled).astype(np.float32),
    }
    np.savez_compressed(TRACE, **columns)
