"""Items that came after the training, described by a feature store."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ...features.errors import InputError
from ...features.store import MANIFEST, FeatureStore
from ...recsys.content_items import vectors_by_content
from ...recsys.feature_search import ItemView
from .ids import IdMap, named
from .source import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewItems:
    """Ids and vectors of items that the model does not know."""

    ids: pl.Series
    vectors: np.ndarray  # (n, d) float32


def describe_new_items(source: Source, folder: Path, memory_mb: int, device: str) -> NewItems:
    """The items of the store in `folder` that the model was not trained on, with vectors by their content.

    The store, or that of the run folder `folder`, must hold the trained items too: the new ones take the
    vectors of those that they are like. Items without any view are left out. Raises InputError for a store
    without trained items, or with ids of another kind.
    """
    store = FeatureStore(folder / "features" if (folder / "features" / MANIFEST).is_file() else folder)
    items, in_store = IdMap(source.model.item_ids), IdMap(store.item_ids)
    had = pl.concat([part["item_id"].unique() for part in source.seen()]).unique()
    trained_ids = source.model.item_ids.gather(np.unique(items.rows(had)))
    trained = in_store.rows(trained_ids)
    known = trained >= 0
    if not known.any():
        raise InputError(
            f"{store.folder} holds none of the items that the model was trained on ({named(trained_ids)}, "
            "...), which new ones are compared with; extract the whole catalogue into it"
        )
    new = np.flatnonzero(items.rows(store.item_ids) < 0)
    ids = _own_type(store.item_ids.gather(new), items.ids, folder)
    rows = np.concatenate([trained[known], new])
    views = [ItemView.of(*store.take(view, rows)) for view in _views(source, store)]
    split = int(known.sum())
    vectors, described = vectors_by_content(
        views,
        np.arange(split),
        np.arange(split, len(rows)),
        source.model.items[items.rows(trained_ids)[known]],
        memory_mb=memory_mb,
        device=device,
    )
    if not described.all():
        without = ids.filter(pl.Series(~described))
        log.warning("%d new items have no view, so no vector (first: %s)", len(without), named(without))
    if not len(new):
        log.warning("%s: every item is in the model; no list has a new one", store.folder)
    log.info("%d new items, by the content of %d trained ones", described.sum(), split)
    return NewItems(ids.filter(pl.Series(described)), vectors[described])


def _views(source: Source, store: FeatureStore) -> list[str]:
    """Those that the model was trained on, if the store has them, else all."""
    trained = [view for view in source.model.config["views"] or () if view in store.views]
    return trained or store.views


def _own_type(ids: pl.Series, like: pl.Series, folder: Path) -> pl.Series:
    cast = ids.cast(like.dtype, strict=False)
    if cast.null_count() > ids.null_count():
        raise InputError(
            f"{folder}: the new items have ids like {named(ids.filter(cast.is_null()))}, the model's are "
            f"{like.dtype} like {named(like)}"
        )
    return cast.rename(like.name)
