"""What recommending reads: a published bundle, or a run folder and the log that its config names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from ...features.config import CatalogConfig
from ...recsys.config import InteractionsConfig
from ..bundle import OpenBundle, open_bundle
from ..dataset import read_log
from ..publish import catalog_fields, seen_pairs
from ..published import CATALOG, SEEN, PublishedBundle

_ROWS = 2**20  # pairs that are read at a time


@dataclass(frozen=True, slots=True)
class Source:
    """A model and what is known of its users and items; pairs and fields are read when they are needed."""

    name: str  # the id of the bundle, or the run folder
    model: OpenBundle
    index_folder: Path
    seen: Callable[[], Iterator[pl.DataFrame]]  # user_id, item_id of all that users had, in parts
    catalog: Callable[[], pl.DataFrame | None]  # item_id and the fields of the model's items


def published_source(bundle: PublishedBundle) -> Source:
    """From the bundle alone."""

    def seen() -> Iterator[pl.DataFrame]:
        with bundle.damage(SEEN):
            for batch in pq.ParquetFile(bundle.folder / SEEN).iter_batches(_ROWS):
                yield pl.DataFrame(batch)

    model = open_bundle(bundle.model_folder)
    return Source(bundle.id, model, bundle.index_folder, seen, lambda: bundle.table(CATALOG))


def run_source(
    folder: Path, interactions: InteractionsConfig | None, catalog: CatalogConfig | None
) -> Source:
    """From a run folder; its log and catalogue are read where its config says."""
    model = open_bundle(folder / "model")

    def seen() -> Iterator[pl.DataFrame]:
        log = read_log(interactions)
        assert interactions is not None  # read_log has checked
        yield seen_pairs(log, model.user_ids, model.item_ids, interactions)

    def fields() -> pl.DataFrame | None:
        return None if catalog is None else catalog_fields(catalog, model.item_ids)

    return Source(str(folder), model, folder / "index", seen, fields)
