"""VBPR (He & McAuley, AAAI 2016): matrix factorisation with a part that is projected from item features."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from .base import GradientModel, TrainingData
from .bpr import ranking_loss
from .embeddings import Projection, all_rows, id_embedding, require_modalities


class VBPR(GradientModel):
    """score(u, i) = gamma_u . gamma_i + theta_u . E f_i + beta_i + beta' . f_i, with E f and beta' . f summed
    over the views.

    A view that an item lacks contributes nothing. E has no bias, as in the paper: a bias on the views that
    are present would make presence itself a feature, and a bias on all items cancels in every ranking (so it
    is harmless in `as_released`, where it exists). Cold items score by content alone: gamma_i starts at 0.
    """

    class Options(BaseModel, frozen=True, extra="forbid"):
        reg_weight: Annotated[float, Field(ge=0)] = 1e-3  # lambda_Theta; as in the paper not of E and beta'
        item_bias: bool = True  # beta_i and beta' . f_i: one more dimension of the vectors
        as_released: bool = False  # as in MMRec: norms not squared, a bias in E, no beta, random cold rows

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        views = require_modalities("vbpr", data.modalities)
        zero_cold = not options.as_released
        self.biased = options.item_bias and not options.as_released
        self.user = id_embedding(data.user_degree, 2 * dim, zero_cold)  # [gamma_u ; theta_u]
        self.item = id_embedding(data.item_degree, dim + self.biased, zero_cold)  # [gamma_i ; beta_i]
        width = dim + self.biased  # E f and beta' f in one product
        self.projections = nn.ModuleList(
            Projection(modality, width, bias=False) for modality in views.values()
        )
        self.bias = nn.Parameter(torch.zeros(dim, device=data.device)) if options.as_released else None

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        rows = self._users(users), self._items(positives), self._items(negatives)
        learned = self.user(users), self.item(positives), self.item(negatives)
        released = self.options.as_released
        return ranking_loss(rows, self.options.reg_weight, released, rows if released else learned)

    def forward(self) -> tuple[Tensor, Tensor]:
        users, items = self.user.weight, self.item.weight
        return self._users(all_rows(self.n_users, users)), self._items(all_rows(self.n_items, items))

    def _users(self, rows: Tensor) -> Tensor:  # (b, 2 dim), with biases (b, 2 dim + 1)
        user = self.user(rows)
        return torch.cat([user, torch.ones_like(user[:, :1])], dim=1) if self.biased else user

    def _items(self, rows: Tensor) -> Tensor:
        item = self.item(rows)
        content = torch.stack([projection(rows) for projection in self.projections]).sum(dim=0)
        if self.bias is not None:
            content = content + self.bias
        if not self.biased:
            return torch.cat([item, content], dim=1)
        gamma, beta = item.split([self.dim, 1], dim=1)
        projected, visual_bias = content.split([self.dim, 1], dim=1)
        return torch.cat([gamma, projected, beta + visual_bias], dim=1)
