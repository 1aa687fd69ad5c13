"""VBPR (He & McAuley, AAAI 2016): matrix factorisation with a part that is projected from item features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ..losses import margins
from .base import GradientModel, TrainingData
from .bpr import ranking_loss
from .distinct import all_rows
from .embeddings import Projection, id_embedding, require_modalities


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
        self.user = id_embedding(data.user_degree, 2 * dim, zero_cold, sparse=True)  # [gamma_u ; theta_u]
        self.item = id_embedding(
            data.item_degree, dim + self.biased, zero_cold, sparse=True
        )  # [gamma_i ; beta_i]
        width = dim + self.biased  # E f and beta' f in one product
        self.projections = nn.ModuleList(
            Projection(modality, width, bias=False) for modality in views.values()
        )
        self.bias = nn.Parameter(torch.zeros(dim, device=data.device)) if options.as_released else None

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        items, weight = torch.cat([positives, negatives]), self.options.reg_weight
        user, item = self.user(users), self.item(items)
        if self.options.as_released:  # penalises whole representations, content included
            positive, negative = torch.cat([item, self._content(items)], dim=1).chunk(2)
            return ranking_loss(margins(user, positive, negative), (user, positive, negative), weight, True)
        positive, negative = item.chunk(2)
        learned = positive - negative
        described = reduce(torch.add, (p.difference(positives, negatives) for p in self._projections()))
        margin = (user[:, : self.dim] * learned[:, : self.dim]).sum(dim=1)
        margin = margin + (user[:, self.dim :] * described[:, : self.dim]).sum(dim=1)
        if self.biased:
            margin = margin + learned[:, self.dim] + described[:, self.dim]
        return ranking_loss(margin, (user, positive, negative), weight, False)

    def forward(self) -> tuple[Tensor, Tensor]:
        user, item = self.user.weight, self.item.weight
        content = self._content(all_rows(self.n_items, item))
        if not self.biased:
            return user, torch.cat([item, content], dim=1)
        gamma, beta = item.split([self.dim, 1], dim=1)
        projected, visual_bias = content.split([self.dim, 1], dim=1)
        ones = torch.ones_like(user[:, :1])
        return torch.cat([user, ones], dim=1), torch.cat([gamma, projected, beta + visual_bias], dim=1)

    def _content(self, rows: Tensor) -> Tensor:
        """E f of items (b,), summed over the views, and beta' . f as a last column where there are biases."""
        content = reduce(torch.add, (projection(rows) for projection in self._projections()))
        return content if self.bias is None else content + self.bias

    def _projections(self) -> Iterator[Projection]:
        for projection in self.projections:
            assert isinstance(projection, Projection)
            yield projection
