"""Learned tables and projections that several models share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..modalities import Modalities, Modality


def id_embedding(
    degree: Tensor,
    dim: int,
    zero_cold: bool = True,
    init: Callable[[Tensor], Tensor] = nn.init.xavier_uniform_,
) -> nn.Embedding:
    """An embedding with one row per entry of `degree` (training interactions of that user or item).

    With `zero_cold`, rows of degree 0 start from zero: no pair ever trains them, so a random start would
    stay in the scores as noise on top of what content knows about these items.
    """
    embedding = nn.Embedding(len(degree), dim)
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
        return self.linear(self.features[rows]) * self.present[rows].unsqueeze(1)

    def table(self) -> Tensor:
        """All rows, (n_items, dim), without a copy of the features."""
        return self.linear(self.features) * self.present.unsqueeze(1)


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


def all_rows(n: int, like: Tensor) -> Tensor:
    """0..n-1 on the device of `like`."""
    return torch.arange(n, device=like.device)
