"""A store in memory: what the report asks of one, without shards."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image

LEVELS, SEEDS, THRESHOLD = (0, 30, 50), (10, 20), 0.3
NASTY = '</script><script>alert("x")</script> & größe 猫'
METHODS = {
    "ce": {group: {"mean": 0.60, "std": 0.02} for group in ("overall", "many", "medium", "few")},
    "diverse-to-specific": {group: {"mean": 0.67, "std": 0.01} for group in ("overall", "many", "medium", "few")},
}


class FakeStore:
    """What the report asks of a store, over rows in memory."""

    def __init__(self, rows: list[dict], threshold: object = THRESHOLD):
        self.table = pa.Table.from_pylist(rows)
        self.rule = {"rule": "threshold", "threshold": threshold}
        self.keys = [row["key"] for row in rows if row["status"] == "ok" and row["text_score"] >= THRESHOLD]

    def selection(self, name: str) -> list[str]:
        assert name == "default"
        return self.keys

    def selection_rule(self, name: str) -> dict:
        return self.rule

    def read(self, key: str) -> bytes:
        return png(int(key, 16) % 256)


def png(value: int) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(packed, "png")
    return packed.getvalue()


def index_rows(sources: int = 6, names: tuple[str, ...] = ("zero", "one", NASTY), seed: int = 0) -> list[dict]:
    """Every third class; sample 5 was rejected early, sample 7 is NaN."""
    generator = np.random.default_rng(seed)
    rows = []
    for source in range(sources):
        for level in LEVELS:
            for noise in SEEDS:
                number = len(rows)
                status = {5: "rejected-early", 7: "nan"}.get(number, "ok")
                rows.append({
                    "key": f"{number:032x}", "source_id": f"s{source}",
                    "class_id": 10 * (source % len(names)),
                    "class_name": names[source % len(names)], "level": level, "seed": noise, "retry": 0,
                    "text_score": None if status == "nan" else float(generator.uniform(0.1, 0.5)),
                    "status": status, "shard": "000000" if status == "ok" else None,
                })  # fmt: skip
    return rows
