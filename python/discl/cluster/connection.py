"""A Ray cluster, here or elsewhere: how to reach it, how many workers it has room for."""

import importlib.util
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from discl.errors import ConfigError

log = logging.getLogger(__name__)

LOCAL_STORE_BYTES = 100_000_000  # the object store of a local cluster: it carries paths and small records
CONNECT_S = 5.0
LOOK_S = 0.5  # loops that wait for workers turn at least so often


@dataclass(frozen=True)
class Cluster:
    """Where workers run. address: of a Ray cluster ("auto", "host:port", "ray://host:port"); None starts one here.

    actors: (least, most); as many as the cluster has GPUs, or `cores` of CPU, for, within these. most None: no limit.
    cores: CPU cores of an actor without a GPU; None: as many as torch's threads here, which every actor has too, since
    on a CPU the number of threads is in the last bits of an image.
    """

    address: str | None = None
    actors: tuple[int, int | None] = (1, None)
    cores: float | None = None

    def __post_init__(self) -> None:
        least, most = self.actors
        if least < 1 or (most is not None and most < least):
            raise ConfigError(f"actors {least} to {most}: give 1 <= least <= most")
        if self.cores is not None and not self.cores > 0:
            raise ConfigError(f"cores = {self.cores} per actor: give a number above 0")

    @property
    def cpus(self) -> float:
        return self.cores or threads()


def threads() -> int:
    import torch

    return torch.get_num_threads()


@contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected for the time of the block. ConfigError where it is missing or cannot be reached."""
    check_reachable(cluster)
    import ray

    if ray.is_initialized():  # the caller's own
        yield ray
        return
    with _own_handlers():
        _init(ray, cluster)
    try:
        yield ray
    finally:
        with _own_handlers():
            ray.shutdown()


def check_reachable(cluster: Cluster) -> None:
    """ConfigError where Ray is missing, or nothing answers at the address: known before a large plan is made."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--ray needs Ray: pip install 'discl[ray]'")
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        _check_address(cluster.address)


def _init(ray, cluster: Cluster) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": log.isEnabledFor(logging.INFO), "logging_level": logging.ERROR}
    try:
        if cluster.address:
            ray.init(address=cluster.address, **quiet)
        else:
            wished = (cluster.actors[1] or cluster.actors[0]) * cluster.cpus
            cores = max(len(os.sched_getaffinity(0)), math.ceil(wished))
            ray.init(
                address="local", num_cpus=cores, include_dashboard=False, object_store_memory=LOCAL_STORE_BYTES, **quiet
            )
    except Exception as error:  # ConnectionError, RuntimeError for other versions, gRPC's own
        raise ConfigError(f"--ray {cluster.address or ''}: cannot connect: {error}") from error


def _check_address(address: str | None) -> None:
    """Ray itself tries a wrong address for a minute."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not address or address in ("auto", "local"):
        return
    if not colon or not port.isdecimal():
        raise ConfigError(f"--ray {address}: give auto, HOST:PORT (6379 on the head node) or ray://HOST:PORT (10001)")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise ConfigError(
            f"--ray {address}: nothing answers there ({error}); start a cluster with `ray start --head`, or give the "
            "address that it printed"
        ) from error


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray sets handlers for signals; the caller's come back."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if here else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def gpus_per_worker(ray, cluster: Cluster, device: str) -> int:
    """1 or 0. ConfigError where this machine lacks the GPU that is asked for; a cluster may get it later."""
    there = ray.cluster_resources().get("GPU", 0)
    if device.startswith("cuda") and not there and not cluster.address:
        raise ConfigError(f'device "{device}": Ray finds no GPU on this machine; set "auto" or "cpu"')
    if device.startswith("cuda") and not there:
        log.warning("device %r: the cluster has no GPU yet, workers wait for one", device)
    return 1 if device.startswith("cuda") or (device == "auto" and there) else 0


def room(ray, cluster: Cluster, gpus: int) -> int:
    """Workers that the cluster has room for by now, within the span that was asked for."""
    resources, (least, most) = ray.cluster_resources(), cluster.actors
    fitting = int(resources.get("GPU", 0) if gpus else resources.get("CPU", 0) / cluster.cpus)
    return max(least, fitting if most is None else min(fitting, most))


def as_actor(ray, cluster: Cluster, gpus: int, kind: type, **options: Any):
    """The class as Ray's, with a worker's share of a node."""
    environment = {"env_vars": {"OMP_NUM_THREADS": str(threads())}}
    share = {"num_cpus": 0 if gpus else cluster.cpus, "num_gpus": gpus}
    return ray.remote(kind).options(**share, runtime_env=environment, **options)
