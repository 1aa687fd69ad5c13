"""What training and evaluation read: the split log, and the features of its items."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ..features.errors import InputError
from ..features.files import digest_json
from ..features.store import FeatureStore
from ..features.tables import read_table
from ..recsys.cleaning import used_columns
from ..recsys.config import FusionConfig, InteractionsConfig, MaskConfig
from ..recsys.interactions import Dataset, prepare
from .masking import check_mask, masked_items, read_view

if TYPE_CHECKING:
    from ..recsys.modalities import Modalities, Modality


def read_log(interactions: InteractionsConfig | None) -> pl.DataFrame:
    """The interactions as they are in the file; InputError where columns are missing or unfit."""
    log = read_table(_required(interactions).path)
    used_columns(log, _required(interactions))
    return log


def load_dataset(
    interactions: InteractionsConfig | None, store: FeatureStore | None, log: pl.DataFrame | None = None
) -> Dataset:
    """The cleaned and split log over the items of the feature store, or over its own items without one.

    `log` is what `read_log` gave, where it has been read before.
    """
    table = read_log(interactions) if log is None else log
    return prepare(table, store.item_ids if store else None, _required(interactions))


def _required(interactions: InteractionsConfig | None) -> InteractionsConfig:
    if interactions is None:
        raise InputError("no [interactions] section in the config: name the log in interactions.path")
    return interactions


def digest_dataset(dataset: Dataset) -> str:
    """A digest of ids and splits: equal digests train and evaluate alike, whatever file they came from."""
    digest = hashlib.blake2b(digest_size=16)
    for ids in (dataset.user_ids, dataset.item_ids):
        digest.update(str(ids.dtype).encode())
        digest.update(ids.cast(pl.String).str.join("\0").item().encode())
    for name, pairs in dataset.splits.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(pairs.user_idx).tobytes())
        digest.update(np.ascontiguousarray(pairs.item_idx).tobytes())
    return digest.hexdigest()


def digest_store(store: FeatureStore) -> str:
    """A digest of what the vectors mean and of every item's content, however it is cut into shards."""
    items = [store.item_ids.to_list(), store.content_hashes.to_list()]
    return digest_json([store.manifest["space"], items])


def load_modalities(
    store: FeatureStore | None,
    item_ids: pl.Series,
    views: Sequence[str] | None,
    fusion: FusionConfig | None = None,
    mask: MaskConfig | None = None,
) -> Modalities:
    """The chosen views (default: all) of the items, in the order of `item_ids`; empty without a store.

    With a `fusion`, these are the chosen views of images that it does not join, and one view "fused". With a
    `mask`, some items lack a modality.
    """
    if store is None:
        if views:
            raise InputError(
                f"train.views asks for {list(views)}, but there is no feature store; run mmrec extract"
            )
        return {}
    chosen = list(views if views is not None else store.views)
    if mask is not None:
        check_mask(store, mask, chosen)
    taken = None if mask is None else masked_items(item_ids, mask)
    if fusion is None or fusion.kind == "none":
        return {view: _modality(*read_view(store, view, item_ids, mask, taken)) for view in chosen}
    from ..recsys.fusion import FUSED, FrozenView, fuse, image_view, joined_views
    from ..recsys.modalities import is_image_view

    joined = joined_views(fusion, chosen, store.views)
    image = image_view(fusion, store.views)
    frozen = {view: FrozenView(*read_view(store, view, item_ids, mask, taken)) for view in joined}
    compared = None if image is None else FrozenView(*read_view(store, image, item_ids, mask, taken))
    rest = [view for view in chosen if is_image_view(view) and view not in joined]
    alone = {view: _modality(*read_view(store, view, item_ids, mask, taken)) for view in rest}
    return alone | {FUSED: fuse(frozen, compared, fusion)}


def _modality(values: np.ndarray, present: np.ndarray) -> Modality:
    import torch

    from ..recsys.modalities import Modality

    matrix = torch.from_numpy(values.astype(np.float32))
    mask = torch.from_numpy(np.ascontiguousarray(present))
    return Modality(matrix.masked_fill_(~mask.unsqueeze(1), 0.0), mask)
