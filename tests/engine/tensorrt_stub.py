"""A stand-in for the module `tensorrt` that knows exactly what the real one has, by the tables in tests/data.

Every class, attribute, enum value, method and keyword is looked up in the table of a version: what it lacks raises.
Engines are run by ONNX Runtime on the memory at the addresses that were set, so that the whole path makes real images.
`faults` makes it fail as the real one does.
"""

import ctypes
import enum
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

DATA = Path(__file__).parent.parent / "data"
DTYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}
MAGIC = b"a plan for "


@dataclass
class Faults:
    """What goes wrong next."""

    parse: tuple[str, ...] = ()  # errors of the parser
    build: bool = False  # the builder returns None
    deserialize: bool = False
    context: bool = False
    execute: str = ""  # the error with which execute_async_v3 is False
    addresses: bool = False


@dataclass
class Record:
    """What was called, for the tests to look at."""

    builds: list[str] = field(default_factory=list)
    profiles: list[dict] = field(default_factory=list)
    network_flags: int = 0
    workspace: int = 0
    level: int = 0
    timing_caches: list[bytes] = field(default_factory=list)
    contexts: int = 0
    runs: list[tuple] = field(default_factory=list)


class Strict:
    """A class of the table: attributes that it lacks can neither be read nor set."""

    _table: ClassVar[dict[str, Any]] = {}
    _kind = ""

    def __setattr__(self, name: str, value: Any) -> None:
        own = not name.startswith("_") and name in type(self)._table
        if own and "settable" not in str(type(self)._table[name]):
            raise AttributeError(f"{self._kind}.{name} cannot be set")
        if not own and not name.startswith("_") and type(self).__module__ == __name__:
            raise AttributeError(f"{self._kind} has no attribute {name}")
        object.__setattr__(self, name, value)


def keywords(signatures: list[str]) -> list[tuple[list[str], int]]:
    """Of each overload: the names of its parameters without self, and how many have no default."""
    found = []
    for text in signatures:
        inner = re.search(r"\((.*)\) ->", text).group(1)
        parameters = [part.strip() for part in re.split(r",(?![^\[<]*[\]>])", inner)][1:]
        names = [part.split(":")[0] for part in parameters]
        found.append((names, sum("=" not in part.split("<")[0] for part in parameters)))
    return found


def checked(kind: str, name: str, signatures: list[str], method: Any) -> Any:
    """`method`, refusing what no overload takes."""
    overloads = keywords(signatures)

    def call(self, *args: Any, **options: Any) -> Any:
        for names, required in overloads:
            given = [*names[: len(args)], *options]
            if len(args) <= len(names) and set(options) <= set(names[len(args) :]) and len(given) >= required:
                return method(self, *args, **options)
        raise TypeError(f"{kind}.{name}() takes {overloads}, given {args} {options}")

    return call


def strict_class(table: dict, kind: str, body: type) -> type:
    """`body`'s methods under the table's names and signatures; one that the table lacks is an error in the stand-in."""
    members = table[kind]["members"]
    names: dict[str, Any] = {"_table": members, "_kind": kind}
    for name, value in vars(body).items():
        public = not name.startswith("_") or name == "__init__"
        if public and name not in members:
            continue  # another version has it
        signatures = members.get(name) if public else None
        names[name] = checked(kind, name, signatures, value) if isinstance(signatures, list) else value
    for name in ("__dict__", "__weakref__", "__module__"):
        names.pop(name, None)
    bases = tuple(base for base in body.__bases__ if base is not object) or (Strict,)
    if Strict not in bases:
        bases = (Strict, *bases)
    return type(kind, bases, {**names, "__module__": __name__})


def make_tensorrt(version: str) -> ModuleType:
    """version: "10.16" or "11.4". The module has `faults` and `record` besides what the table has."""
    table = json.loads((DATA / f"tensorrt_{version}.json").read_text())["names"]
    trt = ModuleType("tensorrt")
    trt.__version__ = f"{version}.0.1"
    trt.faults, trt.record = Faults(), Record()
    for kind, entry in table.items():
        if entry["kind"] == "enum":
            setattr(trt, kind, enum.IntEnum(kind, [(name, number) for number, name in enumerate(entry["values"])]))
    for body in bodies(trt):
        setattr(trt, body.__name__, strict_class(table, body.__name__, body))
    trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING = 0, 1, 2
    trt.ILogger.INFO, trt.ILogger.VERBOSE = 3, 4
    return trt


def bodies(trt: ModuleType) -> list[type]:
    class ILogger:
        def __init__(self):
            object.__setattr__(self, "_ready", True)

    class IProgressMonitor:
        def __init__(self):
            object.__setattr__(self, "_ready", True)

    class Dims(tuple):
        def __new__(cls, shape=()):
            return tuple.__new__(cls, shape)

        def __init__(self, shape=()):
            pass

    class IHostMemory(bytes):
        @property
        def nbytes(self):
            return len(self)

    class ITimingCache:
        def serialize(self):
            return host(self._data + b"+")

    class IOptimizationProfile:
        def set_shape(self, input, min, opt, max):
            assert all(type(dims).__name__ == "Dims" for dims in (min, opt, max)), "Dims are wanted"
            self._shapes[input] = (min, opt, max)

    class ParserError:
        def desc(self):
            return self._text

    class INetworkDefinition:
        pass

    class OnnxParser:
        def __init__(self, network, logger):
            ready(logger)
            self._network = network

        def parse_from_file(self, model):
            assert isinstance(model, str)
            import onnx

            onnx.checker.check_model(model)
            self._network._file = model
            return not trt.faults.parse

        @property
        def num_errors(self):
            return len(trt.faults.parse)

        def get_error(self, index):
            return make("ParserError", _text=trt.faults.parse[index])

    class IBuilderConfig:
        def set_memory_pool_limit(self, pool, pool_size):
            assert pool == trt.MemoryPoolType.WORKSPACE
            trt.record.workspace = pool_size

        def add_optimization_profile(self, profile):
            self._profiles.append(profile._shapes)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache):
            if serialized_timing_cache and not serialized_timing_cache.startswith(b"timings"):
                return None
            return make("ITimingCache", _data=serialized_timing_cache or b"timings")

        def set_timing_cache(self, cache, ignore_mismatch):
            trt.record.timing_caches.append(cache._data)
            self._cache = cache
            return True

        def get_timing_cache(self):
            return self._cache

    class Builder:
        def __init__(self, logger):
            self._logger = ready(logger)

        def create_network(self, flags=0):
            trt.record.network_flags = flags
            return make("INetworkDefinition", _file="")

        def create_builder_config(self):
            return make("IBuilderConfig", _profiles=[], _cache=None)

        def create_optimization_profile(self):
            return make("IOptimizationProfile", _shapes={})

        def build_serialized_network(self, network, config):
            if trt.faults.build:
                self._logger.log(trt.ILogger.ERROR, "no tactic was found")
                return None
            monitor = config.progress_monitor
            monitor.phase_start("Building", None, 2)
            go_on = all(monitor.step_complete("Building", step) for step in range(2))
            monitor.phase_finish("Building")
            if not go_on:
                return None
            (shapes,) = config._profiles
            trt.record.builds.append(Path(network._file).name)
            trt.record.profiles.append(shapes)
            trt.record.level = config.builder_optimization_level
            facts = {"file": network._file, "shapes": shapes, "version": trt.__version__}
            return host(MAGIC + json.dumps(facts).encode())

    class Runtime:
        def __init__(self, logger):
            self._logger = ready(logger)

        def deserialize_cuda_engine(self, serialized_engine):
            data = bytes(serialized_engine)
            facts = json.loads(data[len(MAGIC) :]) if data.startswith(MAGIC) else {}
            if trt.faults.deserialize or facts.get("version") != trt.__version__:
                self._logger.log(trt.ILogger.ERROR, "the plan's magic tag does not match")
                return None
            import onnxruntime

            session = onnxruntime.InferenceSession(facts["file"], providers=["CPUExecutionProvider"])
            return make("ICudaEngine", _session=session, _shapes=facts["shapes"], _logger=self._logger)

    class ICudaEngine:
        @property
        def num_io_tensors(self):
            return len(tensors(self._session))

        def get_tensor_name(self, index):
            return list(tensors(self._session))[index]

        def get_tensor_mode(self, name):
            inputs = {value.name for value in self._session.get_inputs()}
            return trt.TensorIOMode.INPUT if name in inputs else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name):
            return trt.DataType[DTYPES[tensors(self._session)[name].type]]

        def create_execution_context(self):
            if trt.faults.context:
                self._logger.log(trt.ILogger.ERROR, "requested size was 1 GB")
                return None
            trt.record.contexts += 1
            return make("IExecutionContext", _engine=self, _given={}, _addresses={})

    class IExecutionContext:
        def set_input_shape(self, name, shape):
            low, _, high = self._engine._shapes[name]
            fits = len(shape) == len(low) and all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True))
            if not fits:
                self._engine._logger.log(trt.ILogger.ERROR, f"{name}: {shape} is outside of the profile")
                return False
            self._given[name] = tuple(shape)
            return True

        def set_tensor_address(self, name, memory):
            assert isinstance(memory, int)
            self._addresses[name] = memory
            return not trt.faults.addresses

        def execute_async_v3(self, stream_handle):
            assert isinstance(stream_handle, int)
            session, log = self._engine._session, self._engine._logger
            if trt.faults.execute:
                log.log(trt.ILogger.ERROR, trt.faults.execute)
                return False
            assert set(self._addresses) == set(tensors(session)), "a tensor has no address"
            inputs = {v.name: at(self._addresses[v.name], self._given[v.name], v.type) for v in session.get_inputs()}
            for value, result in zip(session.get_outputs(), session.run(None, inputs), strict=True):
                at(self._addresses[value.name], result.shape, value.type)[...] = result
            trt.record.runs.append((next(iter(self._given.values())), tuple(self._addresses.values())))
            return True

    def make(kind: str, **private: Any) -> Any:
        made = object.__new__(getattr(trt, kind))
        for name, value in private.items():
            object.__setattr__(made, name, value)
        return made

    def host(data: bytes) -> Any:
        return trt.IHostMemory(data)

    def ready(logger: Any) -> Any:
        assert isinstance(logger, trt.ILogger) and logger._ready, "ILogger.__init__ was not called"
        return logger

    made = [ILogger, IProgressMonitor, Dims, IHostMemory, ITimingCache, IOptimizationProfile, ParserError]
    return [*made, INetworkDefinition, OnnxParser, IBuilderConfig, Builder, Runtime, ICudaEngine, IExecutionContext]


def tensors(session: Any) -> dict[str, Any]:
    return {value.name: value for value in [*session.get_inputs(), *session.get_outputs()]}


def at(address: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """The array at an address."""
    dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}[kind]
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * count).from_address(address), dtype).reshape(shape)
