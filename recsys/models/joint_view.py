"""All views of an item side by side, for models that read one vector of content per item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..modalities import Modalities, Modality
from .embeddings import unit_length


def joint_view(views: Modalities) -> Modality:
    """A single view as it is; of several, the rows at unit length next to each other, so that none outweighs
    another by its scale. What an item lacks is zero there: a linear map takes nothing from it."""
    if len(views) == 1:
        return next(iter(views.values()))
    units = [unit_length(view) for view in views.values()]
    learned = _SideBySide(tuple(units)) if any(unit.learned for unit in units) else None
    present = torch.stack([unit.present for unit in units]).any(dim=0)
    return Modality(torch.cat([unit.values for unit in units], dim=1), present, learned)


@dataclass(frozen=True, slots=True)
class _SideBySide:
    """Views of which some are learned."""

    views: tuple[Modality, ...]

    @property
    def dim(self) -> int:
        return sum(view.dim for view in self.views)

    def module(self) -> nn.Module:
        return _Rows(self.views)

    def to(self, device: torch.device | str) -> _SideBySide:
        return _SideBySide(tuple(view.to(device) for view in self.views))


class _Rows(nn.Module):
    def __init__(self, views: Sequence[Modality]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            view.learned.module() if view.learned else _Frozen(view.values) for view in views
        )

    def forward(self, rows: Tensor | None = None) -> Tensor:
        return torch.cat([part(rows) for part in self.parts], dim=1)


class _Frozen(nn.Module):
    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values, persistent=False)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        return self.values if rows is None else self.values.index_select(0, rows)
