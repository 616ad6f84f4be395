"""`discl filter`: (arguments, stop) -> exit code or None."""

import argparse
from typing import TYPE_CHECKING

from discl.cli.stop import Stop
from discl.errors import ConfigError

if TYPE_CHECKING:
    from discl.filtering import Outcome, Rules


def filter(args: argparse.Namespace, stop: Stop) -> None:
    from discl.filtering import filter_store

    outcome = filter_store(
        args.store, _rules(args), args.name, scorer=args.scorer, recipe=args.recipe,
        real_counts=_real_counts(args), below_rule=args.below_rule, write=not args.dry_run,
    )  # fmt: skip
    print("\n".join(_lines(outcome, args.dry_run)))


def _rules(args: argparse.Namespace) -> "Rules":
    from discl.filtering import Rules

    return Rules(
        threshold=args.threshold,
        class_thresholds=dict(args.class_threshold),
        level_thresholds={_level(name): value for name, value in args.level_threshold},
        quantile=args.quantile,
        by=args.by,
        margin=args.margin,
        rank=args.rank,
        duplicates=args.duplicates,
        duplicate_cap=args.duplicate_cap,
        best=args.best,
        quota=args.quota,
        balance=args.balance,
        balance_cap=args.balance_cap,
        minimum=args.minimum,
    )


def _level(name: str) -> int:
    if not name.isdecimal() or int(name) > 99:
        raise ConfigError(f"--level-threshold {name}=...: levels are whole numbers from 0 to 99")
    return int(name)


def _real_counts(args: argparse.Namespace) -> dict[str, int] | None:
    if not args.data:
        return None
    from discl.config import load_config
    from discl.data import load_data

    table = load_data(load_config(args.data).data)
    return dict(zip(table.class_names, table.train_counts, strict=True))


def _lines(outcome: "Outcome", dry: bool) -> list[str]:
    lines = [f"{'kept':>12}  {'share':>6}  rule"]
    made = max(outcome.kept["made"], 1)
    lines += [f"{count:12,}  {100 * count / made:5.1f}%  {rule}" for rule, count in outcome.kept.items()]
    lines += ["", *outcome.coverage.lines()]
    if outcome.fallback:
        found = outcome.fallback
        lines.append(
            f"minimum: {found.lacking:,} images lacked; {found.own_level:,} taken back at their level, "
            f"{found.other_level:,} of another level, {found.left:,} left"
        )
    word = "would be" if dry else "are"
    return [*lines, "", f"{outcome.count:,} images {word} in selection {outcome.name!r}"]
