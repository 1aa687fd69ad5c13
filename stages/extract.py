"""Stage 1: catalogue to feature store. Encodes new and changed items only and resumes shard by shard."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from ..features.config import CatalogConfig, ExtractConfig
from ..features.store import FeatureStoreWriter
from .extraction.flow import Flow, Made, meter_of
from .extraction.parts import Part
from .extraction.plan import Plan
from .extraction.report import ExtractReport, check_failures, retried_reasons
from .extraction.request import check_made_for, request_of
from .extraction.stopping import stop_on_signal
from .meter import duration
from .progress import progress_bar

__all__ = ["ExtractReport", "check_failures", "check_made_for", "extract"]

log = logging.getLogger(__name__)


def extract(
    catalog: CatalogConfig | None,
    config: ExtractConfig,
    folder: Path,
    part: Part | None = None,
    retry: str | None = None,
) -> ExtractReport:
    """Bring the feature store `folder` up to date with the catalogue; returns what was encoded and reused.

    A `part` makes its own shards and leaves the rest to `merge`. Items whose ledger lines have the reason
    `retry`, or any one if that is "any", are encoded again. A signal to stop lets the shard in flight be
    finished and raises KeyboardInterrupt. Raises InputError for unusable input; for too many failures see
    `check_failures`.
    """
    started = time.perf_counter()
    retried = retried_reasons(retry)
    plan = Plan(catalog, config, folder)
    writer = FeatureStoreWriter(folder, plan.space(), retried, alone=part is None)
    shards = range(plan.n_shards) if part is None else part.shards(plan.n_shards)
    report = _make_shards(plan, writer, shards)
    report.reused = report.items - report.encoded
    if part is not None:
        report.part = str(part)
    else:
        report.up_to_date = not writer.changed
        report.ledger = writer.commit({"request": request_of(config)})["failures"]
    report.seconds = time.perf_counter() - started
    return report


def _make_shards(plan: Plan, writer: FeatureStoreWriter, shards: range) -> ExtractReport:
    report = ExtractReport(items=sum(len(plan.items(shard)) for shard in shards), shards=len(shards))
    meter = meter_of(plan, report.items)
    with (
        stop_on_signal() as stop,
        Flow(plan, writer, meter, stop) as flow,
        progress_bar("extract", report.items) as move,
        meter.reporting(),
    ):

        def advance(items: int) -> None:
            meter.advance(items)
            move(items)

        def done(made: Made) -> None:
            report.encoded += made.encoded
            report.count_failures(made.failures)

        flow.run(shards, advance, done)
    if report.encoded:
        report.pace = meter.lap()
        log.info("extract: %d items in %s; %s", report.items, duration(report.pace.seconds), report.pace)
    return report
