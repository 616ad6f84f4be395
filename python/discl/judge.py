"""What judged a store's images and what [score] now asks for in, StoreError out where these differ.

Scores of two judges share one column and one threshold, so they must never stand in one store.
"""

from typing import TYPE_CHECKING, Any

from discl.config import RunConfig
from discl.errors import StoreError

if TYPE_CHECKING:
    from discl.engine import Engine


def judge_of(config: RunConfig, engine: "Engine | None" = None) -> dict[str, Any] | None:
    """Who judges, as the run's record holds it; the weights' digest is known once the engine is loaded."""
    if config.score is None:
        return None
    loaded = engine.scorer.digest if engine else None
    return {"name": config.score.clip, "digest": loaded, "prompt": config.score.prompt}


def clip_digest(name: str) -> str:
    """The digest of a CLIP that no engine has loaded. Raises ModelError."""
    from discl.engine.clip_checkpoint import load_clip

    return load_clip(name).digest


def check_judge(judge: dict[str, Any] | None, earlier: list[dict[str, Any]], certain: bool = False) -> None:
    """StoreError unless every earlier run's record names this judge, whatever the run's recipe.

    Another prompt, or scores beside none, differ at once. Where names differ, or the caller wants to be
    `certain`, the weights decide: a folder may have moved, or hold other weights than it did.
    """
    judges = [run.get("scorer") for run in earlier]
    _compare(judge, judges)
    renamed = judge and any(old and old["name"] != judge["name"] for old in judges)
    if judge and judges and not judge["digest"] and (certain or renamed):
        _compare(judge | {"digest": clip_digest(judge["name"])}, judges)


def _compare(judge: dict[str, Any] | None, judges: list[dict[str, Any] | None]) -> None:
    for before in judges:
        if not _same(before, judge):
            raise StoreError(
                f"this store's images were scored with {_named(before)}, now [score] is {_named(judge)}; "
                "restore [score], or generate into a new store"
            )


def _same(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    known = one["digest"] and other["digest"]
    return one["prompt"] == other["prompt"] and (not known or one["digest"] == other["digest"])


def _named(judge: dict[str, Any] | None) -> str:
    if judge is None:
        return "no scorer"
    weights = f" (weights {judge['digest'][:8]})" if judge["digest"] else ""
    return f"{judge['name']}{weights} and the prompt {judge['prompt']!r}"
