"""Compiled code kept in a folder or bucket of the user's, so that a fresh process or node starts warm.

A file holds what torch.compile made in one process: torch's own cache artifacts and, for CPUs, the shared objects that
they refer to and do not hold. It is code that will be executed: only trusted people may write to the place.
"""

import functools
import hashlib
import io
import json
import logging
import os
import platform
import re
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import torch
from torch._dynamo.utils import counters
from torch._inductor import codecache
from torch._inductor.runtime.cache_dir_utils import cache_dir

from discl.engine.pretrained import DiffusionModel
from discl.errors import DisclError

log = logging.getLogger(__name__)

ARTIFACTS = "artifacts.bin"
LIBRARY = re.compile(r"[a-z0-9]{8,64}\.main\.so")
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member: equal content, equal bytes


class CompileCache:
    """The files below PLACE/compiled/<key>, where the key names everything that compiled code must agree with.

    place: a folder or an fsspec URL. Files are added, never changed: several workers may share a place.
    """

    def __init__(self, place: str, facts: dict[str, Any]):
        key = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
        self.filesystem, root = open_place(place)
        self.folder = f"{root}/compiled/{key}"
        self._known: set[str] = set()
        self._graphs = compiled_graphs()

    def load(self) -> int:
        """Hand every file's code to torch.compile, which takes what fits; returns how many artifacts were read.

        What is damaged, foreign or out of reach is left alone with a warning: it is compiled anew.
        """
        for file in self._files():
            try:
                self._known |= unpack(self.filesystem.cat_file(file))
            except Exception as error:  # whatever a store, an archive or torch's reader may raise
                log.warning("compile cache: %s is ignored (%s)", file, _line(error))
        return len(self._known)

    def save(self) -> None:
        """Add what was compiled since; does nothing, quickly, when that is nothing."""
        if compiled_graphs() == self._graphs:
            return
        self._graphs = compiled_graphs()
        try:
            packed = pack()
            if packed is not None and not packed[1] <= self._known:
                self._write(*packed)
        except Exception as error:
            log.warning("compile cache: nothing written to %s (%s)", self.folder, _line(error))

    def _files(self) -> list[str]:
        try:
            found = self.filesystem.ls(self.folder, detail=False) if self.filesystem.exists(self.folder) else []
        except Exception as error:
            log.warning("compile cache: %s cannot be listed (%s)", self.folder, _line(error))
            return []
        return sorted(file for file in found if file.endswith(".zip"))

    def _write(self, data: bytes, keys: set[str]) -> None:
        name = hashlib.blake2b("\n".join(sorted(keys)).encode(), digest_size=16).hexdigest()
        put_file(self.filesystem, f"{self.folder}/{name}.zip", data)
        self._known |= keys
        log.info("compile cache: %d artifacts, %.1f MB, to %s", len(keys), len(data) / 1e6, self.folder)


def open_cache(place: str, model: DiffusionModel, device: torch.device) -> CompileCache:
    """The cache of a model on a device, loaded. Raises DisclError for a place that is not one."""
    cache = CompileCache(place, compile_facts(model, device))
    cache.load()
    return cache


def open_place(place: str) -> tuple[Any, str]:
    """fsspec's file system of a folder or URL, and the path in it. Raises DisclError for what is neither."""
    try:
        filesystem, root = fsspec.url_to_fs(str(place))
    except (ValueError, ImportError, OSError, TypeError) as error:
        raise DisclError(
            f"cache={place!r} cannot be opened: {_line(error)}; give a folder or a URL that fsspec knows"
        ) from error
    return filesystem, root.rstrip("/")


def put_file(filesystem: Any, file: str, data: bytes) -> None:
    """Write under another name first: a reader sees a whole file or none."""
    folder, _, name = file.rpartition("/")
    filesystem.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}.{platform.node()}.{os.getpid()}"
    filesystem.pipe_file(temporary, data)
    filesystem.mv(temporary, file)


def compile_facts(model: DiffusionModel, device: torch.device) -> dict[str, Any]:
    """What compiled code depends on besides shapes, which torch's own keys hold, and weights, which it does not see."""
    return {
        "unet": _configuration(model.unet),
        "vae": _configuration(model.vae),
        "dtype": str(model.dtype),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "device": device_name(device),
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with its instruction sets: code is compiled for exactly these."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {_cpu()}"


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process."""
    return counters["stats"]["unique_graphs"]


def pack() -> tuple[bytes, set[str]] | None:
    """This process's compiled code as one archive, and the keys of its artifacts; None when there is none."""
    saved = torch.compiler.save_cache_artifacts()
    if saved is None:
        return None
    data, info = saved
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr(zipfile.ZipInfo(ARTIFACTS, EPOCH), data)
        for library in _libraries():
            file.writestr(zipfile.ZipInfo(library.name, EPOCH), library.read_bytes())
    return archive.getvalue(), _keys(info)


def unpack(data: bytes) -> set[str]:
    """The reverse. Raises for an archive that is damaged or not one of ours."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in file.namelist()}  # every checksum, before anything is used
    artifacts = members.pop(ARTIFACTS)
    strange = [name for name in members if not LIBRARY.fullmatch(name)]
    if strange:
        raise ValueError(f"it holds {strange[0]!r}")
    for name, library in members.items():
        _install(_library(name.split(".")[0]), library)
    info = torch.compiler.load_cache_artifacts(artifacts)
    if info is None:
        raise ValueError("torch cannot read its artifacts")
    return _keys(info)


def _libraries() -> list[Path]:
    """The shared objects that this process's compiled CPU code runs."""
    paths = (_library(key) for key in codecache.CppPythonBindingsCodeCache.cache)
    return sorted(path for path in paths if path.is_file())


def _library(key: str) -> Path:
    """Where inductor looks for the shared object of a key (its `get_path`)."""
    return Path(cache_dir(), key[1:3], f"{key}.main.so")


def _install(path: Path, library: bytes) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(library)
    temporary.replace(path)


def _keys(info: Any) -> set[str]:
    return {f"{kind}/{key}" for kind, keys in info.artifacts.items() for key in keys}


def _configuration(module: Any) -> str:
    config = {key: value for key, value in module.config.items() if not key.startswith("_")}
    return json.dumps(config, sort_keys=True, default=str)


@functools.lru_cache(maxsize=1)
def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    facts = {line.split(":")[0].strip(): line for line in reversed(lines) if ":" in line}
    known = [facts.get(name, "") for name in ("model name", "flags", "Features")]
    return " ".join(known) if any(known) else platform.processor()


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
