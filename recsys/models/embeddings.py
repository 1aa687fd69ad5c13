"""Learned tables and projections that several models share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import InputError
from ..modalities import Learned, Modalities, Modality
from ..unit_rows import unit_rows
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
    the features a parameter; a view that is learned brings its own. Raises InputError for both.
    """

    present: Tensor  # (n_items,) bool
    features: Tensor | None  # (n_items, d) float32, or bfloat16 after `halve`; None where they are learned

    def __init__(self, modality: Modality, dim: int, bias: bool, train_features: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(modality.dim, dim, bias=bias, device=modality.values.device)
        nn.init.xavier_normal_(self.linear.weight)
        self.register_buffer("present", modality.present, persistent=False)
        self.learned = modality.learned.module() if modality.learned else None
        if train_features and self.learned is not None:
            raise InputError(
                "train_features makes parameters of features that a learned [fusion] or an encoder trained "
                "end to end computes; set train_features = false, or take a fusion without parameters and "
                "without a width, and a frozen encoder"
            )
        if train_features:
            self.features = nn.Parameter(modality.values.clone(memory_format=torch.contiguous_format))
        else:
            self.register_buffer("features", None if self.learned else modality.values, persistent=False)

    def halve(self) -> None:
        """From now on, frozen features are held in bfloat16 and multiplied in it; all else stays float32."""
        if self.features is not None and not isinstance(self.features, nn.Parameter):
            self.features = self.features.bfloat16()

    def forward(self, rows: Tensor) -> Tensor:
        # Fusing or projecting a wide row costs more than finding its copies.
        if self.features is None or self.features.shape[1] >= WIDE:
            unique = distinct(rows)
            return F.embedding(unique.slots, self._rows(unique.rows))
        return self._rows(rows)

    def _rows(self, rows: Tensor) -> Tensor:
        return self._masked(self._map(self._features(rows)), self.present[rows])

    def _features(self, rows: Tensor | None) -> Tensor:
        """Rows before the projection, (b, d); None stands for all, without a copy of frozen ones."""
        if self.features is None:
            assert self.learned is not None
            return self.learned(rows)
        return self.features if rows is None else self.features.index_select(0, rows)

    def difference(self, rows: Tensor, others: Tensor) -> Tensor:
        """forward(rows) - forward(others) where both are present, (b, dim), in one product; biases cancel."""
        if self.features is None:
            chosen, rest = self(torch.cat([rows, others])).chunk(2)
            return chosen - rest
        features = self.features.index_select(0, rows)
        return self._map(features.sub_(self.features.index_select(0, others)), biased=False)

    def table(self) -> Tensor:
        """All rows, (n_items, dim), without a copy of the features."""
        return self._masked(self.unmasked_table(), self.present)

    def unmasked_table(self) -> Tensor:
        """`table` where absent rows hold the bias, for those who do not look at them."""
        return self._map(self._features(None))

    def _map(self, features: Tensor, biased: bool = True) -> Tensor:
        bias = self.linear.bias if biased else None
        if features.dtype == self.linear.weight.dtype:
            return F.linear(features, self.linear.weight, bias)
        product: Tensor = _HalfProduct.apply(features, self.linear.weight)  # type: ignore[assignment]
        return product if bias is None else product + bias

    def _masked(self, projected: Tensor, present: Tensor) -> Tensor:
        """Without a bias, the zero features of an absent row give zeros already."""
        return projected if self.linear.bias is None else projected * present.unsqueeze(1)


@dataclass(frozen=True, slots=True)
class _UnitLength:
    """The rows of a learned view, each at length 1."""

    learned: Learned

    @property
    def dim(self) -> int:
        return self.learned.dim

    def module(self) -> nn.Module:
        return nn.Sequential(self.learned.module(), _UnitRows())

    def to(self, device: torch.device | str) -> _UnitLength:
        return _UnitLength(self.learned.to(device))


class _UnitRows(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return unit_rows(rows)


def unit_length(modality: Modality) -> Modality:
    """Every row at length 1; zero rows stay."""
    learned = _UnitLength(modality.learned) if modality.learned else None
    return Modality(F.normalize(modality.values, dim=1), modality.present, learned)


def halve_features(model: nn.Module) -> None:
    """`Projection.halve` of every projection in the model."""
    for module in model.modules():
        if isinstance(module, Projection):
            module.halve()


class _HalfProduct(torch.autograd.Function):
    """x W^T of fixed bfloat16 features x (n, d) and a float32 W (dim, d), both ways in bfloat16 with float32
    sums; what comes out is float32."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        return (features @ weight.bfloat16().T).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, (grads[0].bfloat16().T @ ctx.saved_tensors[0]).float()


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
