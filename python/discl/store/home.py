"""A store behind a URL that is being written: sealed shards go there, the folder that writes them keeps what it needs.

The folder (in the user's cache folder) is a store of its own whose tars go once they have been sent. Data goes first,
the manifest entry last and only if there is none: a reader sees whole shards alone, and of two writers one is refused.
What was sealed and not sent is sent by the next run on this machine.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from discl.atomic import write_atomic
from discl.cache_folder import cache_folder
from discl.errors import StoreError
from discl.store import history, manifest
from discl.store.manifest import Shard
from discl.store.remote import RemoteStore
from discl.store.remote_history import fetch_history, settle_there
from discl.store.remote_lease import RemoteLease, make_folder
from discl.store.settle import missing_entries, settle

log = logging.getLogger(__name__)

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # between attempts
LOOSE = ("runs/*.json", "selections/*.parquet", "rejection/*.json", "quarantine.jsonl")
FINAL = (FileExistsError, FileNotFoundError, PermissionError, ImportError, ValueError)  # waiting does not help
Result = TypeVar("Result")


def writing_folder(url: str) -> Path:
    """Where this machine writes the store at `url`."""
    return cache_folder() / "writing" / hashlib.blake2b(url.rstrip("/").encode(), digest_size=16).hexdigest()


class Home:
    """The store at `url`, for one writer at a time: a context manager. StoreError for what cannot be reached after
    several attempts, and while another writes."""

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self.folder = folder or writing_folder(url)
        self.remote = RemoteStore(self.url)
        self._sent: dict[str, bytes] = {}
        self._loose: tuple[str, ...] = LOOSE

    def __enter__(self) -> "Home":
        """Take the store's lease and bring what is there."""
        try:
            files, root = self.attempt("connect", self.remote.connection)
            self._lease = self.attempt("take the lease", RemoteLease(files, root, self.url).__enter__)
        except FINAL as error:
            raise StoreError(f"{self.url}: cannot be written: {error}") from error
        try:
            self.bring()
        except BaseException:
            self._lease.__exit__()
            raise
        return self

    def __exit__(self, *error) -> None:
        try:
            self.send_loose()
        finally:
            self._lease.__exit__()

    def bring(self) -> None:
        """Have the manifest and the indexes of the shards there in the folder, then send what is only here."""
        for folder in manifest.FOLDERS:
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        there = {shard.number: shard for shard in self._shards()}
        fetch_history(self)
        here = {shard.number: shard for shard in manifest.sealed_shards(self.folder)}
        for number, shard in there.items():
            if number in here and here[number].digest != shard.digest:
                raise self.two_machines(f"shard {number:06d}")
            if not (self.folder / manifest.manifest_path(number)).exists():
                self._fetch(shard)
        settle(self.folder)
        for number in sorted(here.keys() - there.keys()):
            self.send(number)
        settle_there(self)
        self._fetch_loose(LOOSE)

    def _shards(self) -> list[Shard]:
        files, root = self.remote.connection()
        if not self.attempt("look for a store", files.exists, f"{root}/manifest"):
            return []
        return self.attempt("read the manifest", self.remote.shards)

    def two_machines(self, what: str) -> StoreError:
        return StoreError(
            f"{what} of {self.url} is not the one in {self.folder}: two machines wrote at once. "
            f"`discl store merge` takes both; move {self.folder} aside to go on with what is there"
        )

    def _fetch(self, shard: Shard) -> None:
        index = manifest.index_path(shard.number)
        data = self.attempt(f"read {index}", self.remote.read, index)
        if manifest.data_entry(data) != shard.files[index]:
            raise StoreError(f"{self.url}/{index} is not what the manifest says; restore it from a copy of the store")
        write_atomic(self.folder / index, data)
        name = manifest.manifest_path(shard.number)
        entered = dict(missing_entries(history.rewrites(self.folder), [shard])).get(name)
        write_atomic(self.folder / name, entered or self.attempt(f"read {name}", self.remote.read, name))

    def _fetch_loose(self, patterns: Iterable[str]) -> None:
        """Records of runs and the like, as a run on another machine may have left them: what is there counts. Only a
        run's record is its own machine's."""
        for name in (name for pattern in patterns for name in self._listed(pattern)):
            path = self.folder / name
            mine = name.startswith("runs/") and path.exists()
            if not mine and (data := self._read_loose(name)) is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, data)
                self._sent[name] = data

    def _listed(self, pattern: str) -> list[str]:
        """The files there whose names match; a star stands for what is between two slashes."""
        head, star, tail = pattern.partition("*")
        if not star:
            return [pattern]
        suffix, slash, rest = tail.partition("/")
        names = [f"{head}{name}" for name in self.remote.names(head.strip("/")) if name.endswith(suffix)]
        return [each for name in names for each in self._listed(f"{name}/{rest}")] if slash else names

    def _read_loose(self, name: str) -> bytes | None:
        try:
            return self.attempt(f"read {name}", self.remote.read, name)
        except FileNotFoundError:
            return None

    def send(self, number: int) -> None:
        """Send a sealed shard; its tar and embeddings leave the folder."""
        self._lease.check()
        shard = next(shard for shard in manifest.sealed_shards(self.folder) if shard.number == number)
        for name, entry in shard.files.items():
            self.put(name, entry)
        name = manifest.manifest_path(number)
        self.create(name, (self.folder / name).read_bytes())
        self.drop(shard.files)
        self.send_loose()

    def drop(self, names: Iterable[str]) -> None:
        """What was sent takes no room here, but for the index."""
        for name in names:
            if not name.startswith("index/"):
                (self.folder / name).unlink(missing_ok=True)

    def put(self, name: str, entry: dict[str, Any]) -> None:
        """Over a file that is there already: no manifest names it, so it was torn, or sent before a crash."""
        files, root = self.remote.connection()

        def put() -> None:
            make_folder(files, f"{root}/{name.rpartition('/')[0]}")
            files.put_file(str(self.folder / name), f"{root}/{name}")
            files.invalidate_cache()
            size = files.size(f"{root}/{name}")
            if size != entry["bytes"]:
                raise OSError(f"{size} of {entry['bytes']} bytes arrived")

        self.attempt(f"send {name}", put)

    def create(self, name: str, data: bytes) -> None:
        """Put the file where there is none. StoreError where another machine has been faster, or has the lease."""
        self._lease.check()
        files, root = self.remote.connection()

        def put() -> None:
            try:
                make_folder(files, f"{root}/{name}".rpartition("/")[0])
                files.pipe_file(f"{root}/{name}", data, mode="create")
            except FileExistsError:
                if self.remote.read(name) != data:  # else an attempt that failed had arrived
                    raise

        try:
            self.attempt(f"enter {name}", put)
        except FileExistsError as error:
            raise StoreError(
                f"{self.url}/{name} exists already: another machine writes this store; stop one of them"
            ) from error

    def watch_over(self, *patterns: str) -> None:
        """Keep these files too as they are in the folder, once they have been brought there."""
        self._loose = (*self._loose, *patterns)
        self._fetch_loose(patterns)

    def send_loose(self) -> None:
        """Records, selections and quarantine as they are now."""
        files, root = self.remote.connection()
        for path in (path for pattern in self._loose for path in sorted(self.folder.glob(pattern))):
            name, data = path.relative_to(self.folder).as_posix(), path.read_bytes()
            if self._sent.get(name) != data:
                make_folder(files, f"{root}/{name}".rpartition("/")[0])
                self.attempt(f"send {name}", files.pipe_file, f"{root}/{name}", data)
                self._sent[name] = data

    def attempt(self, what: str, call: Callable[..., Result], *args: Any) -> Result:
        """Again after what may pass: timeouts, refused connections, 503."""
        for pause in (*PAUSES_S, None):
            try:
                return call(*args)
            except (*FINAL, StoreError):
                raise
            except Exception as error:
                if pause is None:
                    raise StoreError(
                        f"{self.url}: cannot {what} after {len(PAUSES_S) + 1} attempts: {error}; what was made is kept "
                        f"in {self.folder}, start again to continue"
                    ) from error
                log.warning("%s: cannot %s: %s; again in %g s", self.url, what, error, pause)
                time.sleep(pause)
        raise AssertionError("unreachable")
