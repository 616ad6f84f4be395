"""The folder scores/<scorer>/ of a store: what `discl score` wrote, shard by shard in the order of the index."""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from discl.errors import StoreError
from discl.store import index, manifest

if TYPE_CHECKING:
    from discl.store import Store

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
DEFINITION = "scorer.json"


def scores_folder(root: Path, scorer: str) -> Path:
    if not NAME.fullmatch(scorer):
        raise StoreError(f"scorer name {scorer!r}: use letters, digits, '_', '-' and '.' only")
    return root / "scores" / scorer


def scorer_of(store: "Store", digest: str) -> str | None:
    """The name under which the store has scores of the definition with this digest."""
    for file in sorted(store.path.glob(f"scores/*/{DEFINITION}")):
        with suppress(OSError, ValueError):
            if json.loads(file.read_text(encoding="utf-8")).get("digest") == digest:
                return file.parent.name
    return None


class ShardScores:
    """Scores of a scorer by shard. definition: how they were made."""

    def __init__(self, store: "Store", scorer: str):
        self.store, self.scorer = store, scorer
        self.folder = scores_folder(store.path, scorer)
        try:
            self.definition: dict[str, Any] = json.loads((self.folder / DEFINITION).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            known = sorted(file.parent.name for file in store.path.glob(f"scores/*/{DEFINITION}"))
            raise StoreError(
                f"{store.name} has no scores of {scorer!r} ({error}); it has: {', '.join(known) or 'none'}"
            ) from error

    def of(self, shard: manifest.Shard) -> pa.Table:
        """A row per row of the shard's index. StoreError where the scores are missing, damaged or of other rows."""
        table = self.read(shard)
        if table is None:
            raise StoreError(
                f"{self.store.name}: shard {shard.number:06d} has no scores of {self.scorer!r} that fit it; "
                "run `discl score` again"
            )
        return table

    def read(self, shard: manifest.Shard, columns: list[str] | None = None) -> pa.Table | None:
        """The same, of these columns (one is key); None where they have to be made (again)."""
        try:
            file = pq.ParquetFile(self.folder / f"{shard.number:06d}.parquet")
            table = file.read(columns, use_threads=False)
            keys = index.open_index(self.store.path, shard).read(columns=["key"], use_threads=False)["key"]
            return table if table["key"].combine_chunks() == keys.combine_chunks() else None
        except (OSError, KeyError, pa.ArrowException):
            return None
