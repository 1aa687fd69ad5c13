"""Items by the modalities that they have, by which an evaluation tells what missing ones cost."""

from __future__ import annotations

import numpy as np
import polars as pl

from ..features.store import FeatureStore
from ..recsys.segments import ItemGroups
from .masking import modality_of

NOTHING = "nothing"
_BOTH = "joint"  # a view of image and text in one pass: no modality beside them


def modality_groups(store: FeatureStore | None, item_ids: pl.Series) -> dict[str, ItemGroups]:
    """{"modality": groups such as "image + text", "text" and "nothing"} of the items; empty without a store,
    and where all items have the same."""
    if store is None:
        return {}
    present: dict[str, np.ndarray] = {}
    for view in store.views:
        modality = modality_of(view)
        if modality != _BOTH:
            has_view = _presence(store, view, item_ids)
            present[modality] = present.get(modality, False) | has_view
    if not present:
        return {}
    combinations, of_item = np.unique(np.stack(list(present.values()), 1), axis=0, return_inverse=True)
    if len(combinations) < 2:
        return {}
    names = [
        " + ".join(name for name, here in zip(present, row, strict=True) if here) or NOTHING
        for row in combinations
    ]
    return {"modality": ItemGroups(names[::-1], len(names) - 1 - of_item.reshape(-1))}  # the fullest first


def _presence(store: FeatureStore, view: str, item_ids: pl.Series) -> np.ndarray:
    """(n,) bool; vectors are read only where the manifest does not tell."""
    if store.manifest["views"][view]["present"] == len(store):
        return np.ones(len(item_ids), dtype=bool)
    return store.read(view, item_ids)[1]
