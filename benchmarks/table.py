"""Rows of results/*.jsonl -> the README's tables: `python -m benchmarks.table` rewrites them in place."""

import json
import re
from pathlib import Path

from benchmarks.levers import BASE, LEVERS
from benchmarks.targets import REPLACED, TARGETS

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MARKED = re.compile(r"(<!-- (measured|ladder) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def table() -> str:
    """A line per ratio: what was asked, then the newest row of those settings, or that there is none."""
    rows, lines = newest(), ["| benchmark | ratio | asked | measured | device |", "|---|---|---|---|---|"]
    for benchmark, device, settings, asked in TARGETS:
        found = [row for row in rows if _fits(row, benchmark, device, settings)]
        name = " ".join([benchmark, *settings.values()])
        for ratio, least in asked.items():
            row = next((row for row in found if ratio in row["ratios"]), None)
            measured = _measured(row, ratio) if row else f"*not run* | {device}"
            asked_for = "" if least is None else f"{least:.3g}"
            lines.append(f"| {name} | {ratio} | {asked_for} | {measured} |")
    return "\n".join(lines) + "\n"


def _measured(row: dict, ratio: str) -> str:
    before = row["time"] < REPLACED.get((row["benchmark"], ratio), "")
    value = f"{row['ratios'][ratio]:.2f}"
    return f"{f'*not run*, {value} before a rewrite' if before else value} | {_device(row)}"


def ladder() -> str:
    """A line per lever: its speed beside its equivalence gate (shifts and flips against exact float32)."""
    lines = [
        "| lever | accepted images/s | score shift, mean (largest) | verdicts flipped | PSNR | few-class accuracy |",
        "|---|---|---|---|---|---|",
    ]
    rows = {row["settings"].get("lever"): row for row in reversed(newest()) if row["benchmark"] == "levers"}
    for lever in LEVERS:
        if lever != BASE:
            lines.append(f"| {lever} | {_rung(rows[lever]) if lever in rows else '*not run* | | | |'} |")
    return "\n".join(lines) + "\n"


def _rung(row: dict) -> str:
    gate, accuracy = row["settings"]["gate"]["all"], row["settings"]["few_class_accuracy"]
    ours, exact = (100 * sum(accuracy[name]) / len(accuracy[name]) for name in ("lever", "exact"))
    return (
        f"{row['ratios']['lever / exact']:.2f}x | {gate['score_shift_mean']:+.4f} ({gate['score_shift_max']:.4f}) | "
        f"{gate['flips']:.1%} | {gate['psnr_median']:.1f} dB | {ours:.1f} (exact: {exact:.1f})"
    )


def newest() -> list[dict]:
    """Every row, the latest first."""
    files = sorted((HERE / "results").glob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted(rows, key=lambda row: row["time"], reverse=True)


def _fits(row: dict, benchmark: str, device: str, settings: dict) -> bool:
    same = all(row["settings"].get(name) == value for name, value in settings.items())
    return row["benchmark"] == benchmark and row.get("kind", "cpu") == device and same


def _device(row: dict) -> str:
    return f"{row['device']}, {row['cores']} cores, torch {row['versions']['torch']}"


def filled(readme: str) -> str:
    tables = {"measured": table, "ladder": ladder}
    return MARKED.sub(lambda marks: marks[1] + tables[marks[2]]() + marks[3], readme)


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
