"""What a power cut may leave: a log of calls in, the files that a disk could hold at that moment out.

Only what was fsynced is certain. Of a file's later writes any blocks may have arrived, in any order; where they did
not, the fsynced bytes are left, and behind these zeros or garbage; its size may lie anywhere in between. (A write that
is cut short harms no byte outside its range: SQLite's "powersafe overwrite", which it assumes of disks by default.)
Names are certain once their folder was fsynced; of the later changes in a folder (create, rename, link, unlink) a
first part may have arrived. No file system promises less.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 512


@dataclass(frozen=True)
class Call:
    name: str
    offset: int
    paths: list[str]
    data: bytes


def calls(log: Path) -> Iterator[Call]:
    with open(log, "rb") as file:
        while line := file.readline():
            name, offset, size, paths = line.decode().rstrip("\n").split(" ", 3)
            yield Call(name, int(offset), paths.split("\t"), file.read(int(size)))


@dataclass(eq=False)
class Inode:
    durable: bytes = b""
    cached: bytearray = field(default_factory=bytearray)

    def left(self, rng: random.Random) -> bytes:
        """Every block old, with zeros or garbage behind, or new; nothing but the old if nothing was written since."""
        old, new = self.durable, bytes(self.cached)
        fate = rng.choice(["old", "new", "mixed", "mixed"])
        if fate != "mixed" or old == new:
            return new if fate == "new" else old
        size = rng.choice([len(old), len(new), rng.randint(*sorted((len(old), len(new))))])
        out = bytearray()
        for at in range(0, size, BLOCK):
            before, after = old[at : at + BLOCK], new[at : at + BLOCK]
            lost = before + rng.choice([bytes(BLOCK), rng.randbytes(BLOCK)])
            out += rng.choice([after.ljust(BLOCK, b"\0"), lost])[: min(BLOCK, size - at)]
        return bytes(out)


class Disk:
    """Files below one folder, as the program sees them and as the disk has them."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self._durable: dict[str, Inode] = {}
        self._changes: dict[str, list[tuple[str, Inode | None]]] = defaultdict(list)

    def apply(self, call: Call) -> None:
        getattr(self, f"_{call.name}")(call)

    def _set(self, path: str, inode: Inode | None) -> None:
        if inode is None:
            self.names.pop(path, None)
        else:
            self.names[path] = inode
        self._changes[str(Path(path).parent)].append((path, inode))

    def _create(self, call: Call) -> None:
        self._set(call.paths[0], Inode())

    def _empty(self, call: Call) -> None:
        self.names[call.paths[0]].cached.clear()

    def _write(self, call: Call) -> None:
        cached = self.names[call.paths[0]].cached
        cached.extend(bytes(max(0, call.offset - len(cached))))
        cached[call.offset : call.offset + len(call.data)] = call.data

    def _truncate(self, call: Call) -> None:
        cached = self.names[call.paths[0]].cached
        del cached[call.offset :]
        cached.extend(bytes(call.offset - len(cached)))

    def _sync(self, call: Call) -> None:
        path = call.paths[0]
        if path in self.names:
            self.names[path].durable = bytes(self.names[path].cached)
        for name, inode in self._changes.pop(path, []):
            self._change(self._durable, name, inode)

    def _rename(self, call: Call) -> None:
        source, target = call.paths
        inode = self.names[source]
        self._set(target, inode)
        self._set(source, None)

    def _link(self, call: Call) -> None:
        self._set(call.paths[1], self.names[call.paths[0]])

    def _unlink(self, call: Call) -> None:
        self._set(call.paths[0], None)

    def _mkdir(self, call: Call) -> None:
        pass  # folders are made before anything is at stake

    @staticmethod
    def _change(names: dict[str, Inode], path: str, inode: Inode | None) -> None:
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode

    def left(self, rng: random.Random) -> dict[str, bytes]:
        """Path -> content after a cut at this moment."""
        names = dict(self._durable)
        for changes in self._changes.values():
            for path, inode in changes[: rng.randint(0, len(changes))]:
                self._change(names, path, inode)
        contents = {id(inode): inode.left(rng) for inode in names.values()}
        return {path: contents[id(inode)] for path, inode in names.items()}


def rebuild(files: dict[str, bytes], root: Path, copy: Path) -> None:
    """Write the files that lay below `root` below `copy`."""
    for path, content in files.items():
        target = copy / Path(path).relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
