"""A plan cut into n parts of nearly equal size, for job arrays: part i has every n-th source."""

import argparse
import re
from typing import TYPE_CHECKING, NamedTuple

from discl.errors import ConfigError

if TYPE_CHECKING:
    from discl.plan import Plan


class Part(NamedTuple):
    """Number i of n. Schedulers count from 0 or from 1: i = n is i = 0, so that either gives every part once."""

    i: int
    n: int


def parse_part(text: str) -> Part:
    """ "3/8" -> Part(3, 8). ArgumentTypeError with what is wrong."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: give i/n, such as 3/8")
    part = Part(int(match[1]), int(match[2]))
    if not 0 <= part.i <= part.n or not part.n:
        raise argparse.ArgumentTypeError(f"{text}: i runs from 0 to {part.n - 1}, or from 1 to {part.n}, of n >= 1")
    return part


def keep_part(plan: "Plan", part: tuple[int, int]) -> None:
    """Leave the part's sources in the plan. ConfigError for numbers that are no part."""
    i, n = part
    if n < 1 or not 0 <= i <= n:
        raise ConfigError(f"part {i}/{n}: give (i, n) with n >= 1 and i from 0 to n - 1, or from 1 to n")
    plan.sources[:] = plan.sources[i % n :: n]
