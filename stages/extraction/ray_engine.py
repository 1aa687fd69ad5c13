"""Stage 1 on Ray: actors hold the model, shards are handed out, and what they made becomes the store."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...features.config import CatalogConfig, ExtractConfig
from ...features.errors import InputError
from ...features.files import remove_stale_temporaries
from ...features.store import FeatureStoreWriter
from ..meter import duration
from ..progress import progress_bar
from .flow import meter_of
from .merge import adopt_all
from .plan import Plan
from .ray_cluster import cluster, load_ray
from .ray_notes import Notes
from .ray_worker import Outcome, ShardActor
from .report import ExtractReport, retried_reasons
from .request import request_of
from .stopping import Stop, stop_on_signal

log = logging.getLogger(__name__)

_MOST_BLOCKS = 2000  # of Ray Data; each is one shard or, of a large catalogue, several
_CORES = 2  # of an actor without a GPU


def extract_on_ray(
    catalog: CatalogConfig | None,
    config: ExtractConfig,
    folder: Path,
    address: str | None = None,
    retry: str | None = None,
) -> ExtractReport:
    """As `extract`, by the actors of the Ray cluster at `address`, or of one that is started for it here.

    The images and `folder` must have the same names on all machines of the cluster. Raises InputError also
    where Ray is not installed or the cluster not to be reached.
    """
    started = time.perf_counter()
    retried_reasons(retry)
    ray = load_ray(address)
    folder = folder.absolute()
    plan = Plan(catalog, config.model_copy(update={"device": "cpu"}), folder)  # here nothing is encoded
    space = plan.space()
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(folder)
    report = ExtractReport(items=len(plan.catalog), shards=plan.n_shards)
    with cluster(ray, address), stop_on_signal() as stop:
        _hand_out(ray, (catalog, config, retry), plan, stop, report)
    if stop.asked_by is not None:
        raise KeyboardInterrupt
    writer = FeatureStoreWriter(folder, space)
    adopt_all(plan, writer, report)
    report.reused = report.items - report.encoded
    report.up_to_date = not writer.changed
    report.ledger = writer.commit({"request": request_of(config)})["failures"]
    report.seconds = time.perf_counter() - started
    return report


def _hand_out(ray: Any, given: tuple[Any, ...], plan: Plan, stop: Stop, report: ExtractReport) -> None:
    """Have every shard made by some actor, until a signal comes."""
    actors, resources = share_out(ray.cluster_resources(), given[1])
    log.info("extract: %d shards for %d actors of Ray, %s each", plan.n_shards, actors, _listed(resources))
    shards = [{"shard": shard} for shard in range(plan.n_shards)]
    meter = meter_of(plan, report.items, actors)
    with (
        progress_bar("extract", report.items) as move,
        meter.reporting(),
        _notes(plan.folder, stop) as notes,
    ):
        rows = ray.data.from_items(shards, override_num_blocks=min(plan.n_shards, _MOST_BLOCKS)).map_batches(
            ShardActor,
            fn_constructor_args=(*given, notes),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            **resources,
        )
        for row in rows.iter_rows():
            outcome = Outcome.from_json(row["outcome"])
            outcome.raise_error()
            move(outcome.items)
            meter.advance(outcome.items)
            for step, seconds in outcome.seconds.items():
                meter.add(step, seconds)
            for warning in outcome.warnings:
                log.warning("%s", warning)
            report.encoded += outcome.encoded
    if report.encoded:
        report.pace = meter.lap()
        log.info("extract: %d items in %s; %s", report.items, duration(report.pace.seconds), report.pace)


def share_out(resources: Mapping[str, float], config: ExtractConfig) -> tuple[int, dict[str, int]]:
    """How many actors a cluster of such resources gets, and what each takes; InputError for more than it has
    room for."""
    gpus = int(resources.get("GPU", 0)) if config.device != "cpu" else 0
    total = gpus or int(resources.get("CPU", 0))
    actors = config.actors or gpus or max(total // _CORES, 1)
    if actors > total:
        kind = "GPUs" if gpus else "cores"
        raise InputError(f"extract.actors = {actors}, but the Ray cluster has {total} {kind}; take fewer")
    return actors, {"num_gpus": 1} if gpus else {"num_cpus": min(total // actors, _CORES)}


def _listed(resources: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.removeprefix('num_')}" for name, count in resources.items())


@contextlib.contextmanager
def _notes(folder: Path, stop: Stop) -> Iterator[Notes]:
    """The notes of this run, which say stop soon after a signal to do so."""
    notes, ended = Notes(folder), threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            if stop.asked_by is not None:
                log.warning(
                    "%s: stopping after the shards in flight; a second signal stops at once", stop.asked_by
                )
                notes.stop()
                return

    watcher = threading.Thread(target=watch, name="stop", daemon=True)
    watcher.start()
    try:
        yield notes
    finally:
        ended.set()
        watcher.join()
        notes.clear()
