"""Stage 1: catalogue to feature store. Encodes new and changed items only and resumes shard by shard."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..features.config import CatalogConfig, ExtractConfig
from ..features.store import FeatureStoreWriter
from .encoding import hash_items
from .extraction.parts import Part
from .extraction.plan import Plan
from .extraction.report import ExtractReport, check_failures, retried_reasons
from .extraction.request import check_made_for, request_of
from .extraction.shard import encode_shard
from .progress import progress_bar

__all__ = ["ExtractReport", "check_failures", "check_made_for", "extract"]


def extract(
    catalog: CatalogConfig | None,
    config: ExtractConfig,
    folder: Path,
    part: Part | None = None,
    retry: str | None = None,
) -> ExtractReport:
    """Bring the feature store `folder` up to date with the catalogue; returns what was encoded and reused.

    A `part` makes its own shards and leaves the rest to `merge`. Items whose ledger lines have the reason
    `retry`, or any one if that is "any", are encoded again. Raises InputError for unusable input; for too
    many failures see `check_failures`.
    """
    started = time.perf_counter()
    retried = retried_reasons(retry)
    plan = Plan(catalog, config, folder)
    writer = FeatureStoreWriter(folder, plan.space(), retried, alone=part is None)
    shards = range(plan.n_shards) if part is None else part.shards(plan.n_shards)
    report = _encode_shards(plan, writer, shards)
    report.reused = report.items - report.encoded
    if part is not None:
        report.part = str(part)
    else:
        report.up_to_date = not writer.changed
        report.ledger = writer.commit({"request": request_of(config)})["failures"]
    report.seconds = time.perf_counter() - started
    return report


def _encode_shards(plan: Plan, writer: FeatureStoreWriter, shards: range) -> ExtractReport:
    report = ExtractReport(items=sum(len(plan.items(shard)) for shard in shards), shards=len(shards))
    with (
        ThreadPoolExecutor(plan.config.workers) as pool,
        progress_bar("extract", report.items) as advance,
    ):
        for shard in shards:
            items = plan.items(shard)
            foreign = list(plan.foreign_rows(shard).values())
            hashed = hash_items(items, plan.views, plan.joint, foreign, plan.config, pool)
            failures = writer.finished(shard, items.item_ids, hashed.content_hashes)
            if failures is None:
                existing = writer.existing_rows(items.item_ids, hashed.content_hashes)
                rows = encode_shard(plan, shard, hashed, existing, pool, advance)
                writer.write_shard(shard, rows)
                report.encoded += len(items) - len(existing.rows)
                failures = rows.failures
            else:
                advance(len(items))
            report.count_failures(failures)
    return report
