"""Bad inputs in, lines of STORE/quarantine.jsonl (path, reason) out; too many of them stop the run."""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from discl.errors import RunFailed

log = logging.getLogger(__name__)


class Quarantine:
    """Names each bad path once per store and counts those of this run against `max_bad_share` of `total`."""

    def __init__(self, store: str | os.PathLike, total: int, max_bad_share: float):
        self.file = Path(store) / "quarantine.jsonl"
        self.total, self.max_bad_share = total, max_bad_share
        self.known = set(_paths(self.file))
        self.count = 0

    def record(self, bad: Iterable[tuple[str, str]]) -> None:
        """Write what is new, durably; does not count."""
        lines = [json.dumps({"path": path, "reason": why}) for path, why in bad if path not in self.known]
        if not lines:
            return
        self.known.update(json.loads(line)["path"] for line in lines)
        with open(self.file, "ab+") as file:
            file.seek(-1 if file.tell() else 0, os.SEEK_END)
            torn = file.read(1) not in {b"", b"\n"}
            file.write("\n".join([*([""] if torn else []), *lines, ""]).encode())
            file.flush()
            os.fsync(file.fileno())

    def add(self, path: str, reason: str) -> None:
        """Record and count one; RunFailed once more than the allowed share of the run's sources is bad."""
        self.record([(path, reason)])
        self.count += 1
        if self.count > self.max_bad_share * self.total:
            raise RunFailed(
                f"{self.count} of {self.total} hard images cannot be used, above data.max_bad_share = "
                f"{self.max_bad_share}; repair or remove them (see {self.file}) or raise the limit. "
                f"The last: {path}: {reason}"
            )


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
