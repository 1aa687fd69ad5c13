"""Shards that were made apart become the store."""

from __future__ import annotations

import time
from pathlib import Path

from ...features.config import CatalogConfig, ExtractConfig
from ...features.errors import InputError
from ...features.store import FeatureStoreWriter
from .parts import ranges
from .plan import Plan
from .report import ExtractReport
from .request import request_of


def merge(catalog: CatalogConfig | None, config: ExtractConfig, folder: Path) -> ExtractReport:
    """Commit the shards that lie in `folder`, once every item of the catalogue is in one; no image is read.

    The store is that which one process would have made. Raises InputError that names the missing shards.
    """
    started = time.perf_counter()
    plan = Plan(catalog, config.model_copy(update={"device": "cpu"}), folder)  # encodes nothing
    writer = FeatureStoreWriter(folder, plan.space())
    report = ExtractReport(items=len(plan.catalog), shards=plan.n_shards, merged=True)
    adopt_all(plan, writer, report)
    report.up_to_date = not writer.changed
    report.ledger = writer.commit({"request": request_of(config)})["failures"]
    report.seconds = time.perf_counter() - started
    return report


def adopt_all(plan: Plan, writer: FeatureStoreWriter, report: ExtractReport) -> None:
    """Take every shard of the plan as it lies there, and its failures; InputError names those that do not."""
    missing: dict[str, list[int]] = {}  # why -> shards
    for shard in range(plan.n_shards):
        try:
            failures = writer.adopt(shard, plan.items(shard).item_ids)
        except InputError as error:
            missing.setdefault(str(error), []).append(shard)
        else:
            report.count_failures(failures)
    if missing:
        n, count = plan.n_shards, sum(map(len, missing.values()))
        why = "; ".join(f"{reason}: {ranges(shards)}" for reason, shards in missing.items())
        raise InputError(
            f"{plan.folder}: {count} of {n} shards are missing ({why}); `mmrec extract --shard K/{n}` with "
            f"the same config makes shard K of these, `mmrec extract` makes them all and merges"
        )
