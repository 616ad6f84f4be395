"""Ray's part: workers as actors that come and go, their reports to the coordinator, its orders back to them."""

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from discl.cluster.coordinator import Coordinator, Member
from discl.cluster.messages import Assignment, Hello, Orders, Report
from discl.cluster.worker import QUEUED, MakeEngine, Worker
from discl.errors import ConfigError, RunFailed
from discl.run_record import versions

log = logging.getLogger(__name__)

LOCAL_STORE_BYTES = 100_000_000  # the object store of a local cluster: it carries paths and small records
CONNECT_S = 5.0
LOOK_S = 0.5  # the loop turns at least so often
STOP_S = 15.0  # workers may take so long to seal, of the 25 s that a stop may take
FRUITLESS = 3  # workers that ended without a sample, in a row, before the run gives up
LONGEST_PAUSE_S = 60.0


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
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs Ray: pip install 'discl[ray]'") from error
    if ray.is_initialized():  # the caller's own
        yield ray
        return
    with _own_handlers():
        _check_address(cluster.address)
        _init(ray, cluster)
    try:
        yield ray
    finally:
        with _own_handlers():
            ray.shutdown()


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


def without_sources(assignment: Assignment) -> Assignment:
    return replace(assignment, plan=replace(assignment.plan, sources=[], quarantined=[]))


class Actor:
    """A worker in a process of Ray's. A SIGTERM, as nodes send that are taken away, seals first."""

    def __init__(self, assignment: Assignment, folder: Path, make: MakeEngine) -> None:
        self._worker = Worker(assignment, folder, make)

    def hello(self) -> Hello:
        hello = self._worker.hello()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: self._worker.stop())
        return hello

    def exchange(self, orders: Orders) -> Report:
        return self._worker.exchange(orders)


class Actors:
    """Starts actors, passes messages, replaces who is lost."""

    def __init__(
        self, ray, coordinator: Coordinator, assignment: Assignment, make: MakeEngine, cluster: Cluster
    ) -> None:
        self._ray, self._coordinator, self._make, self._cluster = ray, coordinator, make, cluster
        self._versions = versions()
        calibrating = assignment.config.engine.early_rejection
        self._alone = calibrating or assignment.slots == "auto"  # the first worker finds out for the others
        self._given = assignment if calibrating else without_sources(assignment)
        self._assignment = ray.put(self._given)
        self._gpus = self._wants_gpus(assignment.config.engine.device)
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, Member] = {}
        self._fruitless, self._pause_until = 0, 0.0

    def _wants_gpus(self, device: str) -> int:
        there = self._ray.cluster_resources().get("GPU", 0)
        if device.startswith("cuda") and not there and not self._cluster.address:
            raise ConfigError(f'engine.device = "{device}", and Ray finds no GPU on this machine; set "auto" or "cpu"')
        if device.startswith("cuda") and not there:
            log.warning("engine.device = %r: the cluster has no GPU yet, actors wait for one", device)
        return 1 if device.startswith("cuda") or (device == "auto" and there) else 0

    def run(self) -> None:
        """Until every block is done. However it ends, what workers wrote is in the store."""
        try:
            while not self._coordinator.leases.finished:
                self._grow()
                self._turn(LOOK_S)
                self._coordinator.beat()
        finally:
            self._end()
        self._coordinator.check_complete()

    def _target(self) -> int:
        resources = self._ray.cluster_resources()
        fitting = resources.get("GPU", 0) if self._gpus else resources.get("CPU", 0) / self._cluster.cpus
        least, most = self._cluster.actors
        if self._alone:
            return 1
        fitting = max(int(fitting), least)
        return min(fitting, most) if most else fitting

    def _grow(self) -> None:
        """Start actors up to the target, while there is work for them."""
        if self._fruitless >= FRUITLESS and not self._actors:
            raise RunFailed(f"no worker could work; the last error: {self._coordinator.errors[-1]['reason']}")
        while (
            self._coordinator.leases.waiting
            and len(self._actors) < self._target()
            and time.monotonic() >= self._pause_until
        ):
            self._start(self._coordinator.join())

    def _start(self, member: Member) -> None:
        remote = self._ray.remote(num_cpus=0 if self._gpus else self._cluster.cpus, num_gpus=self._gpus)(Actor)
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads())}}
        actor = remote.options(max_restarts=0, runtime_env=environment).remote(
            self._assignment, member.folder, self._make
        )
        self._actors[member.name] = actor
        self._calls[actor.hello.remote()] = member

    def _turn(self, seconds: float) -> None:
        if not self._calls:
            time.sleep(min(seconds, max(0.0, self._pause_until - time.monotonic())))
            return
        ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=seconds)
        for call in ready:
            self._hear(call, self._calls.pop(call))

    def _hear(self, call, member: Member) -> None:
        try:
            said = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            self._lose(member, "failed", f"{type(error.cause).__name__}: {error.cause}")
        except self._ray.exceptions.RayError as error:
            self._lose(member, "lost", str(error).strip().splitlines()[0])
        else:
            self._greet(member, said) if isinstance(said, Hello) else self._take(member, said)

    def _greet(self, member: Member, hello: Hello) -> None:
        if self._coordinator.greet(member, hello, self._versions):
            if self._alone:
                self._alone, self._given = False, replace(without_sources(self._given), slots=hello.slots)
                self._assignment = self._ray.put(self._given)
            self._order(member, QUEUED)
        else:
            self._lose(member, "refused", "")

    def _take(self, member: Member, report: Report) -> None:
        if report.failed:
            self._lose(member, "failed", report.failed)
        elif report.stopped:
            self._lose(member, "stopped", "")
        else:
            self._coordinator.take(member, report)
            self._fruitless = 0 if member.samples else self._fruitless
            self._order(member, report.wants)

    def _order(self, member: Member, wants: int) -> None:
        orders = self._coordinator.orders(member, wants)
        self._calls[self._actors[member.name].exchange.remote(orders)] = member

    def _lose(self, member: Member, state: str, reason: str) -> None:
        self._ray.kill(self._actors.pop(member.name))
        self._coordinator.lost(member, state, reason)
        if not member.samples:
            self._fruitless += 1
            self._pause_until = time.monotonic() + min(LONGEST_PAUSE_S, 2.0 ** (self._fruitless - 1))

    def _end(self) -> None:
        """Have everybody seal, then let them go."""
        stopping = {call: member for call, member in self._calls.items() if member.state == "working"}
        end = time.monotonic() + STOP_S
        if self._coordinator.leases.finished:
            stopping = {}
        while stopping and time.monotonic() < end:
            ready, _ = self._ray.wait(list(stopping), num_returns=1, timeout=max(0.0, end - time.monotonic()))
            for call in ready:
                member = stopping.pop(call)
                try:
                    stopped = self._ray.get(call).stopped
                except self._ray.exceptions.RayError:
                    continue
                if not stopped:
                    stopping[self._actors[member.name].exchange.remote(Orders(stop=True))] = member
        for name, actor in list(self._actors.items()):
            self._ray.kill(actor)
            self._coordinator.lost(self._coordinator.members[name], "stopped", "")
        self._actors.clear()
        self._coordinator.tidy()
