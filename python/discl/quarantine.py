"""Bad inputs in, lines of STORE/quarantine.jsonl (path, reason) out; too many of them stop the run."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from discl.errors import RunFailed

log = logging.getLogger(__name__)

Record = Callable[[Iterable[tuple[str, str]]], None]  # told of bad (path, reason)


class Quarantine:
    """Names each bad path once per store; counts those of this run against `max_bad_share` of `total`.

    The rule is the one of loading the data: bad images over all images of the data table, good and bad.
    """

    def __init__(self, store: str | os.PathLike, total: int, max_bad_share: float):
        self.file = Path(store) / "quarantine.jsonl"
        self.total, self.max_bad_share = total, max_bad_share
        self.known = set(_paths(self.file))
        self.count = 0

    def record(self, bad: Iterable[tuple[str, str]]) -> None:
        """Write what is new, durably; does not count."""
        lines = [json.dumps({"path": path, "reason": bare(path, why)}) for path, why in bad if path not in self.known]
        if not lines:
            return
        self.known.update(json.loads(line)["path"] for line in lines)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "ab+") as file:
            file.seek(-1 if file.tell() else 0, os.SEEK_END)
            torn = file.read(1) not in {b"", b"\n"}
            file.write("\n".join([*([""] if torn else []), *lines, ""]).encode())
            file.flush()
            os.fsync(file.fileno())

    def add(self, bad: Sequence[tuple[str, str]]) -> None:
        """Record and count; RunFailed once more than the allowed share of all images is bad."""
        self.record(bad)
        self.count += len(bad)
        if bad:
            check_share(self.count, self.total, self.max_bad_share, bad[-1], f" (see {self.file})")


def check_share(bad: int, images: int, max_bad_share: float, last: tuple[str, str], where: str = "") -> None:
    """RunFailed once more than the allowed share of all images is bad; last: a bad path and the reason."""
    if bad > max_bad_share * images:
        path, reason = last
        raise RunFailed(
            f"{bad} of {images} images cannot be used, above data.max_bad_share = {max_bad_share}; "
            f"repair or remove them{where} or raise the limit. The last: {path}: {bare(path, reason)}"
        )


def bare(path: str, reason: str) -> str:
    """The reason without the path that an error's text begins with: it stands beside it."""
    return reason.removeprefix(f"{path}: ")


def _paths(file: Path) -> list[str]:
    """Paths named so far; a last line torn by a crash is passed over."""
    if not file.is_file():
        return []
    paths = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            paths.append(json.loads(line)["path"])
        except (ValueError, KeyError, TypeError):
            log.warning("%s: passed over a broken line", file)
    return paths
