"""Items that lose a modality, always the same ones: AlignRec's mask-modality protocol."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import numpy as np
import polars as pl

from ..features.errors import InputError
from ..features.store import FeatureStore
from ..recsys.config import MaskConfig

log = logging.getLogger(__name__)

# The view of an encoder that reads both at once -> what it made of an item with one of them hidden.
_HIDDEN = {("joint", "image"): "joint.text", ("joint", "text"): "joint.image"}
_KINDS = ("image", "text")


def modality_of(view: str) -> str:
    """ "image" of image.full and joint.image, "text" of text.title and joint.text; any other view is a
    modality of its own."""
    kind = view.removeprefix("joint.").partition(".")[0]
    return kind if kind in _KINDS else view


def replacement(store: FeatureStore, view: str, mask: MaskConfig) -> str | None:
    """The view from which the masked items take their rows of `view`; None where they lose them, or where
    the mask leaves the view as it is."""
    hidden = _HIDDEN.get((view, mask.modality))
    return mask.replace.get(view) or (hidden if hidden in store.views else None)


def check_mask(store: FeatureStore, mask: MaskConfig, views: Sequence[str]) -> None:
    """InputError for a mask that takes nothing from any view of the store, replaces one that is not there,
    or by rows of another size; a warning where a joint view among `views` keeps what the others lose."""
    for view in (*mask.replace, *mask.replace.values()):
        store.dim(view)  # names the nearest one
    replaced = {view: other for view in store.views if (other := replacement(store, view, mask))}
    for view, other in replaced.items():
        if store.dim(view) != store.dim(other):
            raise InputError(
                f"{store.folder}: '{view}' has {store.dim(view)} dimensions and '{other}', which a mask puts "
                f"in its place, has {store.dim(other)}; name a view of the same encoder"
            )
    modalities = dict.fromkeys(map(modality_of, store.views))
    if not replaced and mask.modality not in modalities:
        raise InputError(
            f"a mask of '{mask.modality}' takes nothing from the views of {store.folder}: there are "
            f"{', '.join(modalities)}. Name one of these, or the views to replace"
        )
    if "joint" in views and "joint" not in replaced and mask.modality in _KINDS:
        log.warning(
            "'joint' keeps the %s of the masked items: extract with joint_blanked = true, or name a view "
            "that replaces it",
            mask.modality,
        )


def masked_items(item_ids: pl.Series, mask: MaskConfig) -> np.ndarray:
    """(n,) bool: the first floor(share * n) items of a permutation that follows from modality, seed and ids.

    Nothing needs to be stored: the same catalogue gives the same items in any order, and a smaller share
    takes a part of those of a larger one.
    """
    key = f"{mask.seed}/{mask.modality}".encode()
    codes = [
        hashlib.blake2b(text.encode(), digest_size=8, key=key[:64]).digest()
        for text in item_ids.cast(pl.String).to_list()
    ]
    order = np.argsort(np.frombuffer(b"".join(codes), dtype=">u8"), kind="stable")
    masked = np.zeros(len(item_ids), dtype=bool)
    masked[order[: int(mask.share * len(item_ids))]] = True
    return masked


def read_view(
    store: FeatureStore,
    view: str,
    item_ids: pl.Series,
    mask: MaskConfig | None = None,
    masked: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`FeatureStore.read`, with what `mask` makes of the rows of the `masked` (n,) items.

    Rows of a view of the modality become absent, or zeros that count as data; those of a view that encodes
    the modality among others come from its `replacement`.
    """
    values, present = store.read(view, item_ids)
    other = None if mask is None else replacement(store, view, mask)
    if mask is None or masked is None or (modality_of(view) != mask.modality and other is None):
        return values, present
    values, present = values.copy(), present.copy()
    if other is not None:
        others, has_other = store.read(other, item_ids)
        values[masked], present[masked] = others[masked], has_other[masked] & present[masked]
    else:
        values[masked] = 0
        present[masked] &= mask.rows == "zero"
    return values, present
