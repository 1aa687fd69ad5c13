"""The item features of an encoder that is trained: one table per view, which it writes and models read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError
from .modalities import Modalities, Modality


class FeatureBank:
    """X of every view, (n_items, d), beside a model that learns from it. Rows of absent items stay zero.

    A table is no parameter of the model, but what autograd ends at: after a backward pass it holds dL/dX. A
    model that looks up rows leaves those rows alone, however large the table.
    """

    def __init__(self, views: Modalities) -> None:
        if not views:
            raise InputError("no view of the features comes from an encoder that could be trained")
        self.tables = {view: modality.values.clone().requires_grad_() for view, modality in views.items()}
        self.present = {view: modality.present for view, modality in views.items()}

    @property
    def n_items(self) -> int:
        return len(next(iter(self.tables.values())))

    @property
    def device(self) -> torch.device:
        return next(iter(self.tables.values())).device

    def joined(self, views: Modalities) -> dict[str, Modality]:
        """`views`, where those of this bank are learned: models train on its rows as they are then."""
        return {
            view: replace(modality, learned=BankView(self, view)) if view in self.tables else modality
            for view, modality in views.items()
        }

    @torch.no_grad()
    def write(self, rows: Tensor, vectors: Mapping[str, Tensor]) -> None:
        """Put vectors (b, d) in the place of `rows` (b,) of every view; absent items are left as they are."""
        for view, table in self.tables.items():
            held = self.present[view][rows]
            table[rows[held]] = vectors[view][held].to(table.dtype)

    def gradients(self, rows: Tensor) -> dict[str, Tensor]:
        """dL/dX of ascending, distinct `rows` (b,) of every view, (b, d); zero where the loss reads none."""
        return {view: _rows_of_gradient(table, rows) for view, table in self.tables.items()}

    def has_gradient(self) -> bool:
        """Whether dL/dX is other than zero anywhere."""
        found = [table.grad for table in self.tables.values() if table.grad is not None]
        return any(bool((g._values() if g.is_sparse else g).any()) for g in found)

    def clear_gradients(self) -> None:
        for table in self.tables.values():
            table.grad = None

    def copy(self) -> dict[str, Tensor]:
        """The tables as they are now."""
        return {view: table.detach().clone() for view, table in self.tables.items()}

    @torch.no_grad()
    def restore(self, tables: Mapping[str, Tensor]) -> None:
        for view, table in self.tables.items():
            table.copy_(tables[view])


def _rows_of_gradient(table: Tensor, rows: Tensor) -> Tensor:
    gradient = table.grad
    if gradient is None:
        return torch.zeros_like(table[: len(rows)])
    if not gradient.is_sparse:
        return gradient[rows]
    found = torch.zeros_like(table[: len(rows)])
    of_entries, values = gradient._indices()[0], gradient._values()
    places = torch.searchsorted(rows, of_entries).clamp(max=len(rows) - 1)
    asked = rows[places] == of_entries
    return found.index_add_(0, places[asked], values[asked])


@dataclass(frozen=True, slots=True, eq=False)
class BankView:
    """A view of a bank, as `Modality.learned`; all its modules read the same table."""

    bank: FeatureBank = field(repr=False)
    view: str

    @property
    def dim(self) -> int:
        return self.bank.tables[self.view].shape[1]

    def module(self) -> nn.Module:
        return _BankRows(self.bank, self.view)

    def to(self, device: torch.device | str) -> BankView:
        """This view; InputError where the bank lies elsewhere, since its tables are not copied."""
        place = self.bank.tables[self.view].device
        if place.type != torch.device(device).type:
            raise InputError(f"the bank of '{self.view}' lies on {place}; build it from views on {device}")
        return self


class _BankRows(nn.Module):
    """Rows (b,) of a view, or all where None is asked for, as the bank has them at that moment."""

    def __init__(self, bank: FeatureBank, view: str) -> None:
        super().__init__()
        self.bank, self.view = bank, view

    def forward(self, rows: Tensor | None = None) -> Tensor:
        table = self.bank.tables[self.view]
        if rows is None:
            return table
        return F.embedding(rows, table, sparse=table.is_leaf)  # a sparse gradient cannot be passed on
