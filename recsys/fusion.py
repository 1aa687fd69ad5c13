"""The fusion layer: several views of every item joined into one, before any model, fixed or learned with it.

CLIPER (arXiv 2407.05420): text views weighted by their similarity with the image. A fusion without parameters
is computed once, in blocks; one with parameters becomes a part of the model that reads it.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from .config import FusionConfig
from .errors import InputError
from .fused_rows import Fusion, ItemViews
from .modalities import Modality, is_image_view

FUSED = "fused"  # name of the view that models read
_LEARNED = ("gated", "self-attention", "mlp")
_NEEDS_IMAGE = ("similarity", "self-attention")
_COPIES = 4  # float32 arrays of all views' rows that a block takes at most


@dataclass(frozen=True, slots=True, eq=False)
class FrozenView:
    """One view as it is stored: rows of absent items are zero."""

    values: np.ndarray  # (n, d) of any floating type; may be a memory map
    present: np.ndarray  # (n,) bool


def is_learned(config: FusionConfig) -> bool:
    """Whether the fusion has parameters: by its kind, or because its output is mapped to a width."""
    return config.kind in _LEARNED or config.width is not None


def joined_views(config: FusionConfig, chosen: Sequence[str], stored: Sequence[str]) -> list[str]:
    """The views that `config` joins: those it names, or all chosen ones that are not of an image."""
    views = list(config.views) if config.views is not None else [v for v in chosen if not is_image_view(v)]
    if not views:
        raise InputError(
            f"fusion.kind = '{config.kind}' has no view to join: the chosen views are {', '.join(chosen)}. "
            f"Name some in fusion.views; the features hold {', '.join(stored)}"
        )
    return views


def image_view(config: FusionConfig, stored: Sequence[str]) -> str | None:
    """The view that the joined ones are compared with: `fusion.image`, or the first stored one of an image.

    None where the kind does without; InputError where it cannot.
    """
    if config.kind not in (*_NEEDS_IMAGE, "gated"):
        return None
    found = config.image or next(filter(is_image_view, stored), None)
    if found is None and config.kind in _NEEDS_IMAGE:
        raise InputError(
            f"fusion.kind = '{config.kind}' compares views with an image, but the features hold "
            f"{', '.join(stored)}. Name one in fusion.image, or take gated, mlp, concat, mean or sum"
        )
    return found


def fuse(views: Mapping[str, FrozenView], image: FrozenView | None, config: FusionConfig) -> Modality:
    """The views of all items joined into one; an item without any of them is absent.

    A learned fusion has its parameters in `Modality.learned`; `values`, from which item graphs are built,
    are then what the same views give without parameters: their mean where the kind is learned (for mlp over
    views of several widths: side by side), else the fusion before its map. Memory besides the result stays
    within `config.memory_mb`. Raises InputError for views whose widths do not fit the kind.
    """
    _check_widths(views, image, config)
    fixed = config
    if config.kind in _LEARNED:
        widths = {view.values.shape[1] for view in views.values()}
        fixed = config.model_copy(update={"kind": "mean" if len(widths) == 1 else "concat"})
    parts = list(views.values())
    present = torch.from_numpy(np.logical_or.reduce([view.present for view in parts]))
    values = _values(parts, image, fixed.model_copy(update={"width": None}))
    if not is_learned(config):
        return Modality(values, present)
    return Modality(values, present, LearnedFusion.of(parts, image, config))


@torch.no_grad()
def _values(views: Sequence[FrozenView], image: FrozenView | None, config: FusionConfig) -> Tensor:
    """The fusion of all items, (n, dim) float32, in blocks."""
    dims = [view.values.shape[1] for view in views]
    n, image_dim = len(views[0].values), image.values.shape[1] if image else None
    fusion = Fusion(config, dims, image_dim)
    values = torch.empty(n, fusion.dim)
    width = sum(dims) + (image_dim or 0)
    rows = max(1, config.memory_mb * 2**20 // (4 * _COPIES * width))
    for start in range(0, n, rows):
        block = slice(start, start + rows)
        values[block] = fusion(_block(views, image, block, config.as_released))
    return values


def _block(views: Sequence[FrozenView], image: FrozenView | None, block: slice, released: bool) -> ItemViews:
    present = torch.from_numpy(np.stack([view.present[block] for view in views], axis=1))
    return ItemViews(
        [_rows(view, block) for view in views],
        torch.ones_like(present) if released else present,
        _rows(image, block) if image else None,
        torch.from_numpy(image.present[block].copy()) if image else None,
    )


def _rows(view: FrozenView, block: slice) -> Tensor:
    """Rows of a view in float32, zero where absent."""
    rows = torch.from_numpy(np.array(view.values[block]))
    rows[~torch.from_numpy(view.present[block].copy())] = 0
    _release(view.values)
    return rows.float()


def _release(values: np.ndarray) -> None:
    """Give back the memory in which a read-only file was mapped; what is read again comes from the system's
    cache. Otherwise a pass over all views would hold them all."""
    owner = values.base
    if isinstance(owner, mmap.mmap) and not values.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True, slots=True, eq=False)
class LearnedFusion:
    """What a model needs to learn the fusion along: the frozen views, held as they are stored."""

    config: FusionConfig
    views: tuple[Tensor, ...]  # each (n, d)
    present: Tensor  # (n, n_views) bool
    image: Tensor | None
    has_image: Tensor | None

    @staticmethod
    def of(views: Sequence[FrozenView], image: FrozenView | None, config: FusionConfig) -> LearnedFusion:
        return LearnedFusion(
            config,
            tuple(_held(view) for view in views),
            torch.from_numpy(np.stack([view.present for view in views], axis=1)),
            _held(image) if image else None,
            torch.from_numpy(np.array(image.present)) if image else None,
        )

    @property
    def dim(self) -> int:
        config, widths = self.config, [view.shape[1] for view in self.views]
        if config.width:
            return config.width
        return sum(widths) if config.kind == "concat" else widths[0]

    def module(self) -> FusedRows:
        return FusedRows(self)

    def to(self, device: torch.device | str) -> LearnedFusion:
        image = None if self.image is None else self.image.to(device)
        has_image = None if self.has_image is None else self.has_image.to(device)
        views = tuple(view.to(device) for view in self.views)
        return replace(self, views=views, present=self.present.to(device), image=image, has_image=has_image)


def _held(view: FrozenView) -> Tensor:
    rows = np.array(view.values)
    rows[~view.present] = 0
    return torch.from_numpy(rows)


class FusedRows(nn.Module):
    """Rows (b,) of items to their fused rows (b, dim); None stands for all items. Saved with its model are
    the parameters, not the views."""

    present: Tensor
    image: Tensor | None
    has_image: Tensor | None

    def __init__(self, learned: LearnedFusion) -> None:
        super().__init__()
        image_dim = None if learned.image is None else learned.image.shape[1]
        dims = [view.shape[1] for view in learned.views]
        self.fusion = Fusion(learned.config, dims, image_dim).to(learned.present.device)
        self.n_views = len(dims)
        named = {f"view{number}": view for number, view in enumerate(learned.views)}
        others = {"present": learned.present, "image": learned.image, "has_image": learned.has_image}
        for name, tensor in chain(named.items(), others.items()):
            self.register_buffer(name, tensor, persistent=False)

    def items(self, rows: Tensor | None = None) -> ItemViews:
        def taken(tensor: Tensor) -> Tensor:
            return tensor if rows is None else tensor.index_select(0, rows)

        return ItemViews(
            [taken(self.get_buffer(f"view{number}")).float() for number in range(self.n_views)],
            taken(self.present),
            None if self.image is None else taken(self.image).float(),
            None if self.has_image is None else taken(self.has_image),
        )

    def forward(self, rows: Tensor | None = None) -> Tensor:
        return self.fusion(self.items(rows))


def _check_widths(views: Mapping[str, FrozenView], image: FrozenView | None, config: FusionConfig) -> None:
    compared = dict(views)
    if image is not None and config.kind in _NEEDS_IMAGE:
        compared["the image"] = image
    widths = {name: view.values.shape[1] for name, view in compared.items()}
    if config.kind not in ("concat", "mlp") and len(set(widths.values())) > 1:
        found = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise InputError(
            f"fusion.kind = '{config.kind}' takes views of one width, found {found}. "
            "Extract them with one encoder, name fewer in fusion.views, or take concat or mlp"
        )
