"""A store behind a URL: its manifest is read there, its files are copied to the local disk when they are needed.

CACHE/<digest of the URL>/ shards/000000.tar, index/..., embeddings/...   copies whose size and digest were checked
                           locks/...                                     held while a file is copied or evicted
Processes share the copies. Above the limit the shards and embeddings that were unused for the longest go.
"""

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from discl.cache_folder import cache_folder
from discl.errors import StoreError
from discl.store import history, manifest

log = logging.getLogger(__name__)

CACHE_BYTES = 64 << 30
ATTEMPTS, PARALLEL = 3, 8
PAUSES_S = (0.5, 2.0)  # between attempts to read
FINAL = (FileNotFoundError, NotADirectoryError, PermissionError, ImportError, ValueError)  # waiting does not help
NOTE_SECONDS = 60.0  # use is noted at most so often
BOUNDED = ("shards", "embeddings")


def is_url(path: str | os.PathLike) -> bool:
    return "://" in os.fspath(path)


def as_folder(path: str | os.PathLike, instead: str = "") -> Path:
    """The path of a store that a command works on where it lies. StoreError for a URL; `instead`: what to do then."""
    if is_url(path):
        url = os.fspath(path)
        bring = f"bring it with `discl store merge {url} --into FOLDER`, work there, and send it to a new URL likewise"
        raise StoreError(f"{url}: this works on a store in a folder; {instead or bring}")
    return Path(path)


class RemoteStore:
    """The store at `url`, of any kind that fsspec knows (s3://, gs://, https://, memory://, ...); read-only.

    `folder`: where local copies lie, named as in the store. Raises StoreError for what cannot be reached, and
    for a copy that does not have the size and digest in the manifest after three attempts.
    """

    def __init__(self, url: str, cache: str | os.PathLike | None = None, limit: int = CACHE_BYTES) -> None:
        self.url, self.limit = url.rstrip("/"), limit
        self.cache = Path(cache or cache_folder() / "stores")
        self.folder = self.cache / hashlib.blake2b(self.url.encode(), digest_size=16).hexdigest()
        self._noted: dict[str, float] = {}  # name -> when its use was noted
        self._connections: dict[int, tuple[Any, str]] = {}  # process -> its own: few survive a fork

    def connection(self) -> tuple[Any, str]:
        """fsspec's file system, and the store's path in it."""
        if os.getpid() not in self._connections:
            from fsspec.core import url_to_fs

            self._connections[os.getpid()] = url_to_fs(self.url)
        return self._connections[os.getpid()]

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Whatever the file system's package raises, as a StoreError."""
        try:
            yield
        except Exception as error:
            raise StoreError(f"{self.url}: {what}: {error or type(error).__name__}") from error

    def _patiently(self, call: Callable[..., Any], *args: Any) -> Any:
        """Again after what may pass: a timeout, a 503."""
        for pause in PAUSES_S:
            try:
                return call(*args)
            except FINAL:
                raise
            except Exception as error:
                log.warning("%s: %s; again in %g s", self.url, error or type(error).__name__, pause)
                time.sleep(pause)
        return call(*args)

    def _listed(self, folder: str) -> list[str]:
        """The files in a folder. FileNotFoundError where there is none."""
        files, root = self.connection()
        return [os.path.basename(path) for path in self._patiently(files.ls, f"{root}/{folder}", False)]

    def shards(self) -> list[manifest.Shard]:
        """Every shard in the manifest, by number."""
        with self._told("is not a discl store that can be read"):
            for _ in range(manifest.ATTEMPTS):
                try:
                    entries = self._read_all("manifest", manifest.entry_names)
                    records = self.records()
                    break
                except FileNotFoundError:  # a rewrite has retired an entry since the folder was listed
                    if not self._is_store():
                        raise
            else:
                raise OSError("its entries vanish while they are read; try again later")
        entered = [manifest.parse(name, f"{self.url}/manifest/{name}", data) for name, data in entries.items()]
        return manifest.live(entered, self._parsed(records), f"{self.url}/{history.FOLDER}")

    def rewrites(self) -> list[history.Rewrite]:
        """Every record of a rewrite, oldest first."""
        with self._told("its history cannot be read"):
            records = self.records()
        return self._parsed(records)

    def _parsed(self, records: dict[str, bytes]) -> list[history.Rewrite]:
        return [history.parse(f"{self.url}/{name}", data) for name, data in records.items()]

    def records(self) -> dict[str, bytes]:
        """Name -> content of these records. Raises what the file system raises."""
        try:
            found = self._read_all(history.FOLDER, lambda names: sorted(n for n in names if n.endswith(".json")))
        except FileNotFoundError:  # nothing was ever rewritten
            return {}
        return {f"{history.FOLDER}/{name}": data for name, data in found.items()}

    def exists(self) -> bool:
        """Whether a store has been begun there. StoreError for what cannot be reached."""
        with self._told("cannot be reached"):
            return self._is_store()

    def _is_store(self) -> bool:
        files, root = self.connection()
        return self._patiently(files.exists, f"{root}/manifest")

    def _read_all(self, folder: str, chosen: Callable[[Iterable[str]], list[str]]) -> dict[str, bytes]:
        """Name -> content of those files of a folder, as they are now. FileNotFoundError where one has gone."""
        files, root = self.connection()
        files.invalidate_cache()
        names = chosen(self._listed(folder))
        paths = [f"{root}/{folder}/{name}" for name in names]
        read = self._patiently(files.cat, paths) if paths else {}
        found = {os.path.basename(path): data for path, data in read.items()}
        return {name: found[name] for name in names}

    def read(self, name: str) -> bytes:
        """A small file as it is now. Raises FileNotFoundError, StoreError."""
        files, root = self.connection()
        try:
            return self._patiently(files.cat_file, f"{root}/{name}")
        except FileNotFoundError:
            raise
        except Exception as error:
            raise StoreError(f"{self.url}/{name}: cannot be read: {error}") from error

    def names(self, folder: str) -> list[str]:
        """The files in a folder of the store; none where there is no such folder."""
        with self._told(f"{folder} cannot be listed"):
            try:
                return self._listed(folder)
            except (FileNotFoundError, NotADirectoryError):
                return []

    def bring(self, files: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Have local copies of these files, given with their manifest entries; several are copied at a time."""
        missing = [(name, entry) for name, entry in dict(files).items() if not self._there(name)]
        if len(missing) > 1:
            with ThreadPoolExecutor(min(PARALLEL, len(missing))) as pool:
                list(pool.map(lambda file: self._copy(*file), missing))
        for name, entry in missing[:1] if len(missing) == 1 else ():
            self._copy(name, entry)

    def drop(self, name: str) -> None:
        """The copy is damaged, or may be: the next `bring` makes another."""
        self._noted.pop(name, None)
        (self.folder / name).unlink(missing_ok=True)

    def _there(self, name: str) -> bool:
        now = time.monotonic()
        if now - self._noted.get(name, -NOTE_SECONDS) < NOTE_SECONDS:
            return True
        try:
            os.utime(self.folder / name)
        except OSError:
            return False
        self._noted[name] = now
        return True

    def _copy(self, name: str, entry: dict[str, Any]) -> None:
        target = self.folder / name
        part = target.with_name(f".{target.name}.part")  # the lock's holder writes it, over what a dead one left
        with self._told(f"{name} cannot be copied to {self.folder}"), self._lock(name):
            if not target.exists():  # another process may have been faster
                self._make_room(entry["bytes"])
                target.parent.mkdir(parents=True, exist_ok=True)
                self._download(name, entry, part)
                os.replace(part, target)
        self._noted[name] = time.monotonic()

    def _download(self, name: str, entry: dict[str, Any], part: Path) -> None:
        files, root = self.connection()
        kind = "blake2b" if "blake2b" in entry else "crc32c"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                files.get_file(f"{root}/{name}", str(part))
                found = manifest.file_entry(part, kind)
                if found == entry:
                    return
                problem = f"it came as {found}, the manifest says {entry}"
            except FileNotFoundError:
                raise
            except Exception as error:
                problem = str(error)
                time.sleep(PAUSES_S[attempt - 1] if attempt < ATTEMPTS else 0.0)
            log.warning("%s/%s: attempt %d: %s", self.url, name, attempt, problem)
        part.unlink(missing_ok=True)
        raise OSError(problem)

    def _make_room(self, bytes: int) -> None:
        """Evict until `bytes` more fit. Copies that are being made by others are not counted."""
        with self._lock("eviction"):
            held = {path: path.stat() for folder in BOUNDED for path in (self.folder / folder).glob("[!.]*")}
            total = sum(status.st_size for status in held.values())
            for path in sorted(held, key=lambda path: held[path].st_mtime):
                if total + bytes <= self.limit:
                    return
                log.info("evicting %s", path)
                path.unlink(missing_ok=True)
                total -= held[path].st_size

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """One process and thread at a time; the system frees it when the holder dies."""
        path = self.folder / "locks" / name.replace("/", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
