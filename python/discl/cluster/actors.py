"""Ray's part: workers as actors that come and go, their reports to the coordinator, its orders back to them."""

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from discl.cluster.connection import LOOK_S, Cluster, as_actor, gpus_per_worker, room
from discl.cluster.coordinator import Coordinator
from discl.cluster.members import Member
from discl.cluster.messages import Assignment, Hello, Orders, Report
from discl.cluster.worker import QUEUED, MakeEngine, Worker
from discl.errors import RunFailed
from discl.run_record import versions

STOP_S = 15.0  # workers may take so long to seal, of the 25 s that a stop may take
FRUITLESS = 3  # workers that ended without a sample, in a row, before the run gives up
LONGEST_PAUSE_S = 60.0


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
        self._gpus = gpus_per_worker(ray, cluster, assignment.config.engine.device)
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, Member] = {}
        self._fruitless, self._pause_until = 0, 0.0
        self._room, self._look_at = 0, 0.0

    def run(self) -> None:
        """Until every block is done. However it ends, what workers wrote is in the store."""
        try:
            while not self._coordinator.leases.finished or self._coordinator.begin_round():
                self._grow()
                self._turn(LOOK_S)
                self._coordinator.beat()
        finally:
            self._end()
        self._coordinator.check_complete()

    def _target(self) -> int:
        if self._alone:
            return 1
        if time.monotonic() >= self._look_at:  # Ray asks its head node: not for every report
            self._room, self._look_at = room(self._ray, self._cluster, self._gpus), time.monotonic() + LOOK_S
        return self._room

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
        kind = as_actor(self._ray, self._cluster, self._gpus, Actor, max_restarts=0)
        actor = kind.remote(self._assignment, member.folder, self._make)
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
