"""Item features as models take them: one matrix and one presence mask per view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .errors import InputError

_BLOCK = 2**16  # rows looked at together: the look takes more memory than the rows


class Learned(Protocol):
    """How the rows of a view follow from parameters that are trained with the model."""

    @property
    def dim(self) -> int: ...

    def module(self) -> nn.Module:
        """Fresh parameters, from torch's default generator: rows (b,), or None for all items, -> (b, dim),
        zero where absent."""
        ...

    def to(self, device: torch.device | str) -> Learned: ...


@dataclass(frozen=True, slots=True, eq=False)
class Modality:
    """One view of all items. Rows of absent items are zero and are never data: use `present`.

    Where a view is `learned`, models train on the rows of its module; `values` are what is known of them
    before, and what item graphs are built from.
    """

    values: Tensor  # (n_items, d) float32
    present: Tensor  # (n_items,) bool
    learned: Learned | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.present.shape != self.values.shape[:1]:
            raise InputError(
                f"features of shape {tuple(self.values.shape)} with a presence mask of shape "
                f"{tuple(self.present.shape)}; expected (n_items, d) and (n_items,)"
            )
        if self.values.dtype != torch.float32 or self.present.dtype != torch.bool:
            raise InputError(
                f"features are {self.values.dtype} with a {self.present.dtype} mask; "
                "expected float32 and bool"
            )
        finite = [block.isfinite().all(dim=1) for block in self.values.split(_BLOCK)]
        bad = (~torch.cat(finite)).nonzero().flatten()
        if len(bad):
            raise InputError(
                f"features of {len(bad)} of {len(self.values)} items are not finite "
                f"(first rows: {bad[:5].tolist()}). Extract them again, or mark these items as absent."
            )
        if self.values[~self.present].any():
            raise InputError("rows of absent items must be zero; set them to zero where present is False")

    @property
    def dim(self) -> int:
        """Size of the rows that models train on."""
        return self.learned.dim if self.learned else self.values.shape[1]

    def to(self, device: torch.device | str) -> Modality:
        learned = self.learned.to(device) if self.learned else None
        return Modality(self.values.to(device), self.present.to(device), learned)


Modalities = Mapping[str, Modality]  # view name ("image.full", "visual") -> features, in the order to use


def is_image_view(name: str) -> bool:
    return name in ("image", "visual") or name.startswith("image.")
