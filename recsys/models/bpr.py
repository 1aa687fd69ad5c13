"""BPR-MF (Rendle et al., UAI 2009): matrix factorisation trained to rank."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ..losses import l2_loss, margin_loss, margins, norm_loss
from .base import GradientModel, TrainingData
from .embeddings import id_embedding

LOG_EPSILON = 1e-10  # inside the logarithm of MMRec's BPR


class BPR(GradientModel):
    """score(u, i) = p_u . q_i; loss = BPR-Opt + reg_weight * L2 of the batch rows."""

    reads_views = False

    class Options(BaseModel, frozen=True, extra="forbid"):
        reg_weight: Annotated[float, Field(ge=0)] = 1e-3
        as_released: bool = False  # as in MMRec: norms in place of squares, cold rows start at random

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        zero_cold = not options.as_released
        self.user = id_embedding(data.user_degree, dim, zero_cold, nn.init.xavier_normal_, sparse=True)
        self.item = id_embedding(data.item_degree, dim, zero_cold, nn.init.xavier_normal_, sparse=True)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        rows = self.user(users), *self.item(torch.cat([positives, negatives])).chunk(2)
        return ranking_loss(margins(*rows), rows, self.options.reg_weight, self.options.as_released)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.user.weight, self.item.weight


def ranking_loss(
    margin: Tensor, regularised: tuple[Tensor, ...], reg_weight: float, as_released: bool
) -> dict[str, Tensor]:
    """BPR of the margins (b,) plus the penalty of the `regularised` rows, each (b, d)."""
    bpr = margin_loss(margin, epsilon=LOG_EPSILON if as_released else 0.0)
    return penalised("bpr", bpr, regularised, reg_weight, as_released)


def penalised(
    name: str, ranking: Tensor, regularised: tuple[Tensor, ...], reg_weight: float, as_released: bool
) -> dict[str, Tensor]:
    """The ranking term `name` plus the penalty of the `regularised` rows, each (b, d)."""
    penalty = (norm_loss if as_released else l2_loss)(*regularised)
    return {"loss": ranking + reg_weight * penalty, name: ranking, "reg": penalty}
