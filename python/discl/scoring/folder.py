"""scores/<scorer>/ of a store or of an --out folder: its definition, and Parquet files that are written whole."""

import io
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from discl.atomic import write_atomic
from discl.filtering.scores import DEFINITION, scores_folder


def open_folder(root: Path, name: str, definition: dict[str, Any]) -> Path:
    """scores/<name>/ with its definition; files of another definition are gone."""
    folder = scores_folder(root, name)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / DEFINITION
    if not file.is_file() or json.loads(file.read_text(encoding="utf-8")).get("digest") != definition["digest"]:
        remove_strangers(folder, set())
        write_atomic(file, json.dumps(definition, indent=1, ensure_ascii=False).encode())
    return folder


def file_name(number: int) -> str:
    """Of a shard's scores, or of a block of images that are in no store."""
    return f"{number:06d}.parquet"


def remove_strangers(folder: Path, names: Collection[str]) -> None:
    for file in folder.glob("*.parquet"):
        if file.name not in names:
            file.unlink()


def write(file: Path, parts: Iterable[pa.Table], state: str = "") -> None:
    """state: of what was scored, for `state_of`."""
    buffer = io.BytesIO()
    table = pa.concat_tables(parts)
    pq.write_table(table.replace_schema_metadata({"state": state}) if state else table, buffer)
    write_atomic(file, buffer.getvalue())


def state_of(file: Path) -> str:
    """What `write` was given; "" where there is no such file, or none that can be read."""
    try:
        return (pq.read_schema(file).metadata or {}).get(b"state", b"").decode()
    except (OSError, ValueError, pa.ArrowException):
        return ""
