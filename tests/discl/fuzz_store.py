"""Driver: damaged and forged files of a store into everything that reads them; a StoreError is the only excuse.

    python -m tests.discl.fuzz_store FOLDER ROUNDS SEED

A damaged file has bits, bytes, lengths or pieces changed. A forged one is damaged under a manifest whose digests fit,
as a hostile or a buggy writer would leave it. Images that come back must be those of their key, unless one is forged.
"""

import json
import random
import shutil
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from discl.errors import StoreError
from discl.store import Store, StoreWriter, verify
from discl.store.forget import forget
from discl.store.manifest import _digest, file_entry
from tests.discl.store_samples import fill, key, sample

COUNT = 10
ABSURD = [-1, 0, 1, 2**31, 2**40, 2**63 - 1, 2**63, 2**70, 1e300, None, "x", [], {}, True, "../../etc/passwd"]


def damaged(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(out) + 1)
        length = rng.randrange(min(400, len(out) - at) + 1)
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                del out[at:]
            case 2:
                del out[at : at + length]
            case 3:
                out[at : at + length] = bytes([rng.randrange(256)]) * length
            case 4:
                out[at:at] = out[-length:]
            case 5:
                out[at : at + 8] = rng.choice([b"\xff" * 8, bytes(8), (2**63).to_bytes(8, "little"), b"9" * 8])
    return bytes(out)


def forged_json(value, rng: random.Random):
    """A JSON value with one part replaced by something absurd."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        if rng.random() < 0.2:
            return {(rng.choice(["../x", "", name * 9]) if k == name else k): v for k, v in value.items()}
        return value | {name: forged_json(value[name], rng)}
    return rng.choice(ABSURD)


def forge_manifests(root: Path, rng: random.Random, change: bool) -> None:
    """Digests that fit the files as they are, and with `change` one absurd entry."""
    paths = sorted(root.glob("manifest/**/[0-9]*.json"))
    absurd = rng.choice(paths) if change else None
    for path in paths:
        body = json.loads(path.read_text())
        del body["digest"]
        for name, entry in body.get("files", {}).items():
            if (root / name).is_file():
                body["files"][name] = file_entry(root / name, next(kind for kind in entry if kind != "bytes"))
        if path == absurd:
            body = forged_json(body, rng)
        if isinstance(body, dict):
            body = body | {"digest": _digest(body)}
        path.write_text(json.dumps(body))


def forge_index(path: Path, rng: random.Random) -> None:
    """A column of absurd values, of another type, gone, twice, or in another order."""
    table = pq.ParquetFile(path).read()
    at = rng.randrange(table.num_columns)
    name = table.schema.names[at]
    match rng.randrange(5):
        case 0:
            values = table[name].to_pylist()
            values[rng.randrange(len(values))] = rng.choice(ABSURD)
            with suppress(pa.ArrowException, TypeError, OverflowError, ValueError):  # the type does not hold it
                table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
        case 1:
            table = table.set_column(at, name, pa.array([rng.choice(["x", 1.5])] * len(table)))
        case 2:
            table = table.drop_columns([name])
        case 3:
            table = table.append_column(name, table[name])
        case 4:
            table = table.take(rng.sample(range(len(table)), len(table)))
    pq.write_table(table, path)


def read_all(root: Path, trusted: bool) -> None:
    store = Store(root)
    uses = [
        lambda: store.table,
        lambda: [batch.to_pylist() for batch in store.scan()],
        lambda: list(store.scan(["key"], [("level", ">", 5)])),
        store.keys,
        store.embeddings,
        lambda: store.selection("default"),
        lambda: store.selection_rule("default"),
        store.snapshot,
    ]
    for use in uses:
        excused(use)
    for i in range(COUNT):
        data = excused(lambda i=i: store.read(key(i)))
        assert data is None or not trusted or data == sample(i)[1], f"another image for sample {i}"
    excused(lambda: store.write_selection("other", [key(0)], {}))


def excused(use):
    try:
        return use()
    except StoreError:
        return None


def write_on(root: Path) -> None:
    with StoreWriter(root, "run", shard_bytes=10**6) as writer:
        if key(COUNT) not in writer.keys:
            writer.append(*sample(COUNT))


def one_round(whole: Path, root: Path, rng: random.Random) -> str:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(whole, root)
    forged = rng.random() < 0.5
    files = sorted(path for path in root.rglob("*.*") if path.is_file() and not path.name.startswith("."))
    path = rng.choice(files)
    if forged and path.suffix == ".parquet" and path.parent.name == "index":
        forge_index(path, rng)
    elif path.suffix != ".json" or not forged:
        path.write_bytes(damaged(path.read_bytes(), rng))
    if forged:
        forge_manifests(root, rng, path.suffix == ".json")
    excused(lambda: read_all(root, trusted=not forged))
    excused(lambda: verify(root))
    excused(lambda: write_on(root))
    return f"{path.relative_to(root)}, {'forged' if forged else 'damaged'}"


def main() -> None:
    folder, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    whole = folder / "whole"
    fill(whole, [*range(6), COUNT + 5], shard_bytes=4000)
    forget(whole, ["source-0"])  # of sample 0 and others: a rewritten shard and the record of it
    fill(whole, range(6)).write_selection("default", [key(0), key(1)], {"rule": "all"})
    writer = StoreWriter(whole, "run", shard_bytes=10**6)  # and a shard that its writer left open
    writer.__enter__()
    for i in range(6, COUNT):
        writer.append(*sample(i))
    writer.flush()
    writer._lock.release()
    for number in range(rounds):
        rng = random.Random(f"{seed} {number}")
        try:
            one_round(whole, folder / "round", rng)
        except BaseException as error:
            raise SystemExit(f"seed {seed}, round {number}:\n{traceback.format_exc()}") from error
    print(f"{rounds} rounds")


if __name__ == "__main__":
    main()
