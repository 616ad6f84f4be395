"""Rows of results/*.jsonl -> the table of ratios in the README: `python -m benchmarks.table` rewrites it in place."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
MARKED = re.compile(r"(<!-- measured -->\n).*?(<!-- /measured -->)", re.DOTALL)


def table() -> str:
    """The newest row of every benchmark, a line per ratio."""
    lines = ["| benchmark | ratio | measured | device |", "|---|---|---|---|"]
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.jsonl")):
        row = json.loads(file.read_text().splitlines()[-1])
        device = f"{row['device']}, {row['cores']} cores, torch {row['versions']['torch']}"
        lines += [f"| {file.stem} | {name} | {value:.2f} | {device} |" for name, value in row["ratios"].items()]
    return "\n".join(lines) + "\n"


def filled(readme: str) -> str:
    return MARKED.sub(lambda marks: marks[1] + table() + marks[2], readme)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text()))
