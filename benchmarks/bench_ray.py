"""Distribution: light workers on leased blocks beside workers that get their share at once; goodput, planning, leasing.

Workers are Ray actors whose engine imports no torch and takes STEP_S a step of SLOTS samples: what is measured is
leasing, reports, encoding, sealing and entering. All wait until the last one is there: many imports on few cores are
another matter. Efficiency is a worker's sampling time over the time from its first block to its last sample; the peer
gets one block, all of its share. Goodput replays exponential lives by a clock of its own
on the real leases. Planning reads as many files as 10^7 requests have sources.
"""

import argparse
import heapq
import math
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.stepping_engine import SLOTS, STEP_S, SteppingEngine
from benchmarks.timing import record
from discl.cluster.coordinator import Coordinator
from discl.cluster.leases import Leases
from discl.cluster.messages import Orders
from discl.config import RunConfig
from discl.progress import ignore

LEVELS, SEEDS = (0, 10, 30, 50), 8
PER_SOURCE = len(LEVELS) * SEEDS
HOUR = 3600.0


def project(folder: Path, sources: int) -> Path:
    """`sources` tiny images of one class and a config without model and scores."""
    from PIL import Image

    place = folder / "data" / "class"
    place.mkdir(parents=True)
    for number in range(sources):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[0, :2, :2].flat = np.frombuffer(number.to_bytes(4, "little"), np.uint8)  # other bytes: another source
        Image.fromarray(pixels).save(place / f"{number:07d}.png")
    return folder


def config_of(folder: Path, store: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "data": {"kind": "imagefolder", "root": str(folder / "data")},
            "hard": {"rule": "all"},
            "spectrum": {"levels": list(LEVELS), "seeds": SEEDS, "steps": 20},
            "store": {"path": str(folder / store), "format": "png", "shard_seconds": 120.0},
        }
    )


def efficiency(folder: Path, workers: int, store: str, whole_shares: bool) -> tuple[float, float]:
    """(each worker's sampling time over the time from its first block to its last sample, all of them together; GB of
    their private memory)."""
    from discl.cluster.actors import Actors
    from discl.cluster.connection import Cluster, connected
    from discl.cluster.messages import Assignment
    from discl.progress import Meter
    from discl.quarantine import Quarantine
    from discl.store import StoreWriter

    config, plan = config_of(folder, store), plan_of(config_of(folder, store))
    with StoreWriter(config.store.path, "run", shard_bytes=1 << 28, embeddings=False) as writer:
        quarantine = Quarantine(config.store.path, len(plan.sources), 1.0)
        given = Assignment(config, plan, "run", SLOTS)
        coordinator = Timed(workers, given, writer, quarantine, Meter("", len(plan)), ignore)
        if whole_shares:
            coordinator.leases = Leases(plan.sources, -(-len(plan.sources) // workers))
        cluster = Cluster(actors=(workers, workers), cores=1e-3)
        with connected(cluster) as ray:
            Actors(ray, coordinator, given, SteppingEngine, cluster).run()
    members = [member for member in coordinator.members.values() if member.samples]
    sampling = sum(math.ceil(member.samples / SLOTS) * STEP_S for member in members)
    spent = sum(coordinator.last[member.name] - coordinator.first[member.name] for member in members)
    return sampling / spent, coordinator.memory


class Timed(Coordinator):
    """Holds the blocks back until all workers are there. Notes when each member's first block went and its last samples
    came, and what all of them hold in memory."""

    def __init__(self, workers: int, *arguments) -> None:
        super().__init__(*arguments)
        self.workers = workers
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.memory = 0.0

    def orders(self, member, wants, stop=False):
        if sum(other.state == "working" for other in self.members.values()) < self.workers and not self.first:
            return Orders()
        given = super().orders(member, wants, stop)
        if given.blocks:
            self.first.setdefault(member.name, time.monotonic())
        return given

    def take(self, member, report) -> None:
        if report.counts:
            self.last[member.name] = time.monotonic()
        super().take(member, report)

    def beat(self) -> None:
        import psutil

        if not self.memory and not self.leases.waiting:
            children = psutil.Process().children(recursive=True)
            self.memory = sum(each.memory_full_info().uss for each in children) / 1e9
        super().beat()


def plan_of(config: RunConfig):
    from discl.data import load_data
    from discl.plan import make_plan

    table = load_data(config.data)
    return make_plan(config, table, np.arange(len(table)), {"benchmark": "ray"})


def goodput(mean_life_h: float, workers: int, hours: float, seal_s: float = 120.0, load_s: float = 60.0) -> float:
    """Sealed work over the time of all lives, in a replay.

    Lives are exponential; a dead worker's place is taken at once, its unsealed blocks are made again (its disk is
    lost), and every life begins with a load.
    """
    chance, block_s = random.Random(0), 60.0
    total = int(workers * hours * HOUR / block_s)
    leases = Leases(range(total), 1)
    events = [(chance.expovariate(1 / (mean_life_h * HOUR)), 0.0, f"w{number}-0") for number in range(workers)]
    heapq.heapify(events)
    paid = useful = 0.0
    while not leases.finished and events:
        death, birth, worker = heapq.heappop(events)
        clock, unsealed = birth + load_s, []
        opened = clock
        while clock + block_s <= death and (block := leases.lease(worker)):
            clock += block_s
            unsealed.append(block)
            if clock - opened >= seal_s:
                for each in unsealed:
                    leases.done(worker, each.number)
                useful += block_s * len(unsealed)
                unsealed, opened = [], clock
        dies = death < hours * HOUR * 10 and clock + block_s > death
        if dies:
            leases.lost(worker)
            name, number = worker.split("-")
            life = chance.expovariate(1 / (mean_life_h * HOUR))
            heapq.heappush(events, (death + life, death, f"{name}-{int(number) + 1}"))
        else:
            for each in unsealed:
                leases.done(worker, each.number)
            useful += block_s * len(unsealed)
        paid += (death if dies else clock) - birth
    return useful / paid


def planning(folder: Path) -> tuple[float, float, object]:
    """(seconds, GB that the process grew by at most, the plan)."""
    before, began = _resident(), time.perf_counter()
    plan = plan_of(config_of(folder, "planned"))
    spent = time.perf_counter() - began
    return spent, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e9, plan


def leasing(plan, folder: Path, workers: int = 64) -> tuple[float, dict[int, float]]:
    """(requests leased and acknowledged per second, requests so far -> MB that the coordinator has grown by)."""
    from discl.cluster.messages import Assignment, Report
    from discl.progress import Meter
    from discl.quarantine import Quarantine
    from discl.store import StoreWriter

    config, grown = config_of(folder, "leased"), {}
    with StoreWriter(config.store.path, "run", shard_bytes=1 << 28, embeddings=False) as writer:
        quarantine = Quarantine(config.store.path, len(plan.sources), 1.0)
        coordinator = Coordinator(Assignment(config, plan, "run", 8), writer, quarantine, Meter("", len(plan)), ignore)
        members = [coordinator.join() for _ in range(workers)]
        began, before, done = time.perf_counter(), _resident(), 0
        while not coordinator.leases.finished:
            for member in members:
                orders = coordinator.orders(member, 2)
                coordinator.take(member, Report(done=[block.number for block in orders.blocks]))
                done += PER_SOURCE * sum(len(block.sources) for block in orders.blocks)
            if done >= 10 ** (len(str(done)) - 1) and 10 ** (len(str(done)) - 1) not in grown:
                grown[10 ** (len(str(done)) - 1)] = (_resident() - before) / 1e6
        return done / (time.perf_counter() - began), grown


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=("workers", "planning", "goodput"), help="one part alone (default: all)")


def run(small: bool = False, part: str | None = None) -> None:
    parts = {"goodput": run_goodput, "planning": run_planning, "workers": run_workers}
    for name, each in parts.items():
        if part in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                each(Path(folder), small)


def run_goodput(folder: Path, small: bool) -> None:
    rates = {"goodput": np.array([goodput(3.0, 8 if small else 64, 2 if small else 24)]), "asked": np.array([0.95])}
    ratios = {"goodput / 95 %": ("goodput", "asked")}
    record("ray", rates, "share", ratios, not small, part="goodput", mean_life_hours=3.0, seal_s=120.0, load_s=60.0)


def run_planning(folder: Path, small: bool) -> None:
    spent, gigabytes, plan = planning(project(folder, 100 if small else 312_500))
    rate, grown = leasing(plan, folder)
    found = {"planned": len(plan) / spent, "asked plan": 1e7 / 60, "leased": rate}
    rates = {name: np.array([value]) for name, value in found.items()}
    settings = {"part": "planning", "requests": len(plan), "seconds": spent, "gigabytes": gigabytes}
    settings["coordinator_grown_mb"] = grown
    ratios = {"planning / 10^7 in 60 s": ("planned", "asked plan")}
    record(
        "ray", {name: np.array(values) for name, values in rates.items()}, "requests/s", ratios, not small, **settings
    )


def run_workers(folder: Path, small: bool) -> None:
    workers, sources = (2, 8) if small else (64, 512)
    project(folder, sources)
    found = {name: efficiency(folder, workers, name, name == "independent") for name in ("leased", "independent")}
    rates = {name: np.array([value]) for name, (value, _) in found.items()} | {"asked": np.array([0.95])}
    ratios = {"leased / independent": ("leased", "independent"), "leased / 95 %": ("leased", "asked")}
    memory = {name: gigabytes for name, (_, gigabytes) in found.items()}
    settings = {"part": "workers", "workers": workers, "step_s": STEP_S, "slots": SLOTS, "gigabytes": memory}
    record("ray", rates, "efficiency", ratios, not small, **settings)
