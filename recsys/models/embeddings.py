"""Learned tables and projections that several models share."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..modalities import Modalities, Modality
from .distinct import distinct

WIDE = 512  # dimensions of a view


def id_embedding(
    degree: Tensor,
    dim: int,
    zero_cold: bool = True,
    init: Callable[[Tensor], Tensor] = nn.init.xavier_uniform_,
    sparse: bool = False,
) -> nn.Embedding:
    """An embedding with one row per entry of `degree` (training interactions of that user or item).

    With `zero_cold`, rows of degree 0 start from zero: no pair ever trains them, so a random start would
    stay in the scores as noise on top of what content knows about these items. `sparse` is for tables that
    are only looked up: the gradient holds the rows of the batch alone.
    """
    embedding = nn.Embedding(len(degree), dim, sparse=sparse)
    init(embedding.weight.data)
    embedding = embedding.to(degree.device)
    if zero_cold:
        embedding.weight.data[degree == 0] = 0
    return embedding


class Projection(nn.Module):
    """One view of the items, mapped linearly to `dim`: rows (b,) -> (b, dim).

    Absent rows are zero, without the bias: what an item lacks contributes nothing. `train_features` makes
    the features a parameter.
    """

    present: Tensor  # (n_items,) bool
    features: Tensor  # (n_items, d)

    def __init__(self, modality: Modality, dim: int, bias: bool, train_features: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(modality.dim, dim, bias=bias, device=modality.values.device)
        nn.init.xavier_normal_(self.linear.weight)
        self.register_buffer("present", modality.present, persistent=False)
        if train_features:
            self.features = nn.Parameter(modality.values.clone())
        else:
            self.register_buffer("features", modality.values, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        if (
            self.features.shape[1] >= WIDE
        ):  # gathering and projecting a row costs more than finding its copies
            unique = distinct(rows)
            return F.embedding(unique.slots, self._project(unique.rows))
        return self._project(rows)

    def _project(self, rows: Tensor) -> Tensor:
        projected = self.linear(self.features.index_select(0, rows))
        return self._masked(projected, self.present[rows])

    def difference(self, rows: Tensor, others: Tensor) -> Tensor:
        """forward(rows) - forward(others) of a projection without a bias, (b, dim), in one product."""
        features = self.features.index_select(0, rows)
        return self.linear(features.sub_(self.features.index_select(0, others)))

    def table(self) -> Tensor:
        """All rows, (n_items, dim), without a copy of the features."""
        return self._masked(self.linear(self.features), self.present)

    def _masked(self, projected: Tensor, present: Tensor) -> Tensor:
        """Without a bias, the zero features of an absent row give zeros already."""
        return projected if self.linear.bias is None else projected * present.unsqueeze(1)


def require_modalities(model: str, modalities: Modalities) -> Modalities:
    """The views given, at least one of them with a vector; InputError otherwise."""
    if not modalities:
        raise InputError(
            f"{model} learns from item features, but no view was given. Extract or import features "
            "([extract] foreign), or choose a model without them: popularity, itemknn, ease, bpr, lightgcn."
        )
    if not any(bool(modality.present.any()) for modality in modalities.values()):
        raise InputError(f"{model}: no item has a vector in any of the views {', '.join(modalities)}")
    return modalities
