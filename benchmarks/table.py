"""Rows of results/*.jsonl and targets.py -> the README's table: `python -m benchmarks.table` rewrites it in place."""

import json
import re
from pathlib import Path

from benchmarks.targets import TARGETS

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MARKED = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.DOTALL)


def table() -> str:
    """A line per ratio: what was asked, then the newest row of those settings, or that there is none."""
    rows, lines = newest(), ["| benchmark | ratio | asked | measured | device |", "|---|---|---|---|---|"]
    for benchmark, device, settings, asked in TARGETS:
        found = [row for row in rows if _fits(row, benchmark, device, settings)]
        name = " ".join([benchmark, *settings.values()])
        for ratio, least in asked.items():
            row = next((row for row in found if ratio in row["ratios"]), None)
            measured = f"{row['ratios'][ratio]:.2f} | {_device(row)}" if row else f"*not run* | {device}"
            lines.append(f"| {name} | {ratio} | {least:g} | {measured} |")
    return "\n".join(lines) + "\n"


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
    return MARKED.sub(lambda marks: marks[1] + table() + marks[2], readme)


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
