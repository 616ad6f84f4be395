"""Config in, filled `Store` out: data -> hard -> plan -> engine -> encode -> store -> selection `default`.

Keys that the store already has are not made again, so the same call continues a stopped or killed run.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discl.config import RunConfig
from discl.cpu_threads import cpu_threads, threads_of
from discl.data import DataTable, load_data
from discl.data.images import TooManyBad
from discl.errors import RunFailed
from discl.hard import select_hard
from discl.job import Job
from discl.judge import check_judge, judge_of
from discl.parts import keep_part
from discl.plan import make_plan
from discl.progress import Meter, OnEvent, ignore
from discl.prompts import check_template
from discl.quarantine import Quarantine
from discl.recipe import digest, make_recipe, model_files, resolved
from discl.rejection import check_config, refuse_below_rule, refuse_to_calibrate
from discl.rejection_rates import rejection_rates
from discl.run_record import RunRecord, earlier_runs, hardware, new_run_id, versions, worked
from discl.selection import check_classes, check_kept, select_by_threshold
from discl.store import Store, StoreWriter, is_url
from discl.store.home import Home

if TYPE_CHECKING:
    from discl.cluster.connection import Cluster
    from discl.engine import Engine

log = logging.getLogger(__name__)

MakeEngine = Callable[[RunConfig, "int | str"], "Engine"]


def make_engine(config: RunConfig, slots: int | str) -> "Engine":
    """The engine that the config describes, with this many slots."""
    from discl.engine import Engine

    return Engine.from_pretrained(
        config.model.path,
        clip=config.score.clip if config.score else None,
        device=config.engine.device,
        dtype=config.model.dtype,
        slots=slots,
        backend=config.model.backend,
        exported=config.model.exported or None,
        solver=config.spectrum.solver,
        mode=config.spectrum.mode,
        steps=config.spectrum.steps,
        text_guidance=config.spectrum.text_guidance,
        guidance_interval=config.spectrum.guidance_interval,
        loras=config.model.loras,
        embeddings=config.model.embeddings,
        score_prompt=config.score.prompt if config.score else None,
        cache=config.engine.cache or None,
        size=config.spectrum.size,
    )


def generate(
    config: RunConfig,
    on_event: OnEvent | None = None,
    *,
    part: tuple[int, int] | None = None,
    cluster: "Cluster | None" = None,
    make: MakeEngine = make_engine,
) -> Store:
    """Make every planned sample that the store lacks, then write the selection `default` of this recipe.

    part: (i, n) makes every n-th source only, beginning with the i-th. The n parts, each in a store of its own,
    merge to what a run without parts makes: same keys and bytes. cluster: where workers make them, on Ray; the same
    keys and bytes again at the same slot count.

    A store may hold several recipes (another model, other steps) but one judge: StoreError for another [score].
    `on_event` gets progress dicts and may raise to stop; as after Ctrl-C, what is written is sealed first.
    Raises ConfigError, DataError, ModelError, StoreError for what the user must change; RunFailed when more
    than data.max_bad_share of all images cannot be used (STORE/quarantine.jsonl names them). The store stays
    resumable in every case.
    """
    if is_url(config.store.path):
        return _generate_at(config, on_event, part, cluster, make)
    return _generate(config, on_event, part, cluster, make, None)


def _generate_at(config: RunConfig, on_event, part, cluster, make: MakeEngine) -> Store:
    """Into a store behind a URL: through a folder that sends every shard there when it is sealed."""
    with Home(config.store.path) as home:
        here = config.model_copy(update={"store": config.store.model_copy(update={"path": str(home.folder)})})
        _generate(here, on_event, part, cluster, make, home)
    return Store(config.store.path)


def _generate(config: RunConfig, on_event, part, cluster, make: MakeEngine, home: Home | None) -> Store:
    check_config(config)
    if config.score:
        check_template(config.score.prompt, "score.prompt")
    files = model_files(config)
    recipe = make_recipe(config, files)
    table = _load(config)
    check_classes(config.score, table.class_names)
    asked, config = config, resolved(config, files, recipe)
    hard = select_hard(config.hard, table)
    plan = make_plan(config, table, hard, recipe, files)
    if part:
        keep_part(plan, part)
        refuse_to_calibrate(config, plan)
    record = RunRecord(Path(config.store.path), new_run_id(), _facts(asked, recipe))
    record.hard = [table.ids[row] for row in hard]
    with _writer(config, record.run_id, table, home) as writer:
        images = len(table) + len(table.quarantined)
        quarantine = Quarantine(config.store.path, images, config.data.max_bad_share)
        quarantine.add([*table.quarantined, *plan.quarantined])
        unsealed = writer.unsealed_rows()  # before the store is read: it waits for what is being sealed
        earlier = earlier_runs(config.store.path, unsealed)
        listen = record.live(on_event or ignore)
        job = Job(config, plan, table, writer, record.run_id, quarantine, listen, unsealed)
        total = job.missing()
        check_judge(judge_of(config), earlier, certain=not total)
        refuse_below_rule(Store(config.store.path), config.score, plan.recipe_digest)
        if total:
            check_kept(Store(config.store.path), config.score, config.store.keep, plan.recipe_digest, plan.attempts)
            record.facts["threads"] = threads = threads_of(plan.recipe_digest, earlier, config.engine.device)
            with cpu_threads(threads):
                if cluster:
                    _make_on(cluster, job, record, total, make, earlier)
                else:
                    _make(job, record, total, make, earlier)
    store = Store(config.store.path)
    select_by_threshold(store, config.score, config.store.keep, plan.recipe_digest, attempts=plan.attempts)
    if total and config.engine.early_rejection:
        record.facts["rejection"] = [rates.to_json() for rates in rejection_rates(store, plan.recipe_digest)]
        record.write("done")
    return store


def _load(config: RunConfig) -> DataTable:
    """The data; where too many images are bad, each is named in the store before the run fails."""
    try:
        return load_data(config.data)
    except TooManyBad as failed:
        quarantine = Quarantine(config.store.path, failed.images, config.data.max_bad_share)
        quarantine.record(failed.bad)
        raise RunFailed(f"{failed} (all are in {quarantine.file})") from failed


def _make(job: Job, record: RunRecord, total: int, make: MakeEngine, earlier: list[dict[str, Any]]) -> None:
    """Load the engine, run the job, and write the run's record when it starts and however it ends."""
    config, status = job.config, "failed"
    with record.timed("load"):
        loading = Meter("load model", 1, job.on_event)
        loading.start()
        engine = make(config, _slots(config, job.plan.recipe_digest, earlier))
        loading.advance()
    with engine:
        record.facts |= {"slots": engine.slots, "scorer": judge_of(config, engine)}
        check_judge(record.facts["scorer"], earlier)
        record.now = lambda: _progress(job, engine)
        record.write("running")
        try:
            with record.timed("generate"):
                job.run(engine, total)
            status = "done"
        except BaseException as error:
            status = record.ended_by(error)
            raise
        finally:
            record.now = dict
            _summarise(job, record, engine)
            record.end(status)


def _make_on(
    cluster: "Cluster", job: Job, record: RunRecord, total: int, make: MakeEngine, earlier: list[dict[str, Any]]
) -> None:
    """The same by workers of a cluster."""
    from discl.cluster.actors import Actors
    from discl.cluster.connection import connected
    from discl.cluster.coordinator import Coordinator
    from discl.cluster.messages import Assignment

    config, plan, status = job.config, job.plan, "failed"
    slots = _slots(config, plan.recipe_digest, earlier)
    meter = Meter("generate", total, job.on_event, config.budget.usd_per_hour)
    meter.start()
    given = Assignment(config, plan, job.run_id, slots)
    coordinator = Coordinator(given, job.writer, job.quarantine, meter, job.on_event)
    record.now = coordinator.facts
    record.write("running")
    try:
        with connected(cluster) as ray, record.timed("generate"):
            Actors(ray, coordinator, given, make, cluster).run()
        status = "done"
    except BaseException as error:
        status = record.ended_by(error)
        raise
    finally:
        record.seconds |= coordinator.seconds
        record.facts["usd"] = worked(record.seconds) / 3600 * config.budget.usd_per_hour
        record.end(status)


def _slots(config: RunConfig, recipe: str, earlier: list[dict[str, Any]]) -> int | str:
    """A resumed run keeps its recipe's slot count: only then are restarts equal to the last bit (design 3.1)."""
    recorded = next((run["slots"] for run in earlier if run.get("slots") and run.get("recipe_digest") == recipe), None)
    if recorded is None:
        return config.engine.slots
    if config.engine.slots not in ("auto", recorded):
        log.warning("slots = %s, but the store was begun with %s", config.engine.slots, recorded)
        return config.engine.slots
    return recorded


def _writer(config: RunConfig, run_id: str, table: DataTable, home: Home | None) -> StoreWriter:
    store = config.store
    return StoreWriter(
        store.path,
        run_id,
        shard_bytes=round(store.shard_mb * 1e6),
        shard_seconds=store.shard_seconds,
        embeddings=store.embeddings and config.score is not None,
        user_columns=tuple(table.columns),
        on_sealed=home.send if home else None,
    )


def _facts(config: RunConfig, recipe: dict[str, Any]) -> dict[str, Any]:
    return {
        "started_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "recipe": recipe,
        "recipe_digest": digest(recipe),
        "versions": versions(),
        "hardware": hardware(),
        "config": config.model_dump(mode="json"),
    }


def _progress(job: Job, engine: "Engine") -> dict[str, Any]:
    """What has been made so far."""
    return {
        "counts": {**job.counts, "planned": len(job.plan), "quarantined": job.quarantine.count},
        "levels": {str(level): dict(counts) for level, counts in job.levels.items()},
        "unet_evaluations": engine.stats.unet_evaluations,
        "slot_occupancy": engine.stats.slot_occupancy,
    }


def _summarise(job: Job, record: RunRecord, engine: "Engine") -> None:
    """Counts, times and cost of what was made, for the run's record."""
    stages = {f"engine.{stage}": seconds for stage, seconds in engine.stats.seconds.items()}
    record.seconds.update(stages | job.seconds)
    record.facts |= _progress(job, engine) | {
        "usd": worked(record.seconds) / 3600 * job.config.budget.usd_per_hour,
    }
