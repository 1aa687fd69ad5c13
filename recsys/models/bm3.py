"""BM3 (Zhou et al., WWW 2023): bootstrapped multi-modal learning, without negatives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..graph import BipartiteGraph
from ..losses import l2_loss, norm_loss
from .base import GradientModel, TrainingData
from .distinct import Distinct, distinct
from .embeddings import Projection, id_embedding, require_modalities
from .lightgcn import DEGREE_EPSILON


class BM3(GradientModel):
    """score(u, i) = f(h_u) . f(h_i), h the LightGCN embeddings (items with a residual), f a linear predictor.

    A prediction is pulled towards targets: the same embeddings with dropout and without a gradient. Loss =
    c(f(h_u), h_i~) + c(f(h_i), h_u~) + view_weight * sum over views m of [c(f(x_m), h_i~) + c(f(x_m), x_m~)]
    + reg_weight * L2, where c(a, b) = 1 - cos(a, b) and x_m is the projected view. An item without view m has
    no term of it. As views are trained to predict h_i, they stand in for it where an item has no training
    interaction: its h_i is the mean of f(x_m) over its views, as long as the h_i of other items are.
    """

    class Options(BaseModel, frozen=True, extra="forbid"):
        n_layers: Annotated[int, Field(ge=0)] = 1
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3  # of the targets
        view_weight: Annotated[float, Field(ge=0)] = 2.0  # of the views' terms
        reg_weight: Annotated[float, Field(ge=0)] = 1e-3  # lambda
        train_features: bool = False  # fine-tune the feature tables too, as the released code does
        as_released: bool = False  # as in MMRec: norms of whole tables in place of L2, random cold items

    cold: Tensor  # (c,) items without a training interaction
    known: Tensor  # (n_items,) bool: has a training interaction or a view

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        views = require_modalities("bm3", data.modalities)
        self.user = id_embedding(data.user_degree, dim, zero_cold=not options.as_released)
        self.item = id_embedding(data.item_degree, dim, zero_cold=not options.as_released)
        self.predictor = nn.Linear(dim, dim, device=data.device)  # f
        nn.init.xavier_normal_(self.predictor.weight)
        self.views = tuple(views)
        self.projections = nn.ModuleList(
            Projection(modality, dim, bias=True, train_features=options.train_features)
            for modality in views.values()
        )
        epsilon = DEGREE_EPSILON if options.as_released else 0.0
        self.graph = BipartiteGraph(data.user_idx, data.item_idx, data.n_users, data.n_items, epsilon)
        cold = data.item_degree == 0
        described = torch.stack([view.present for view in views.values()]).any(dim=0)
        self.register_buffer("cold", cold.nonzero().flatten(), persistent=False)
        self.register_buffer("known", described | ~cold, persistent=False)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        user, item = distinct(users), distinct(positives)
        user_rows, item_rows, penalty = self._rows(user, item)
        user_targets = self.target("user", user_rows, user.rows)
        item_targets = self.target("item", item_rows, item.rows)
        parts = {
            "user": distance(F.embedding(user.slots, self.predictor(user_rows)), item_targets[item.slots]),
            "item": distance(F.embedding(item.slots, self.predictor(item_rows)), user_targets[user.slots]),
            "reg": penalty,
        }
        ranking, content = parts["user"] + parts["item"], penalty.new_zeros(())
        for view, projection in self._projections():
            weights = item.counts * projection.present[item.rows]
            projected = projection(item.rows)
            predicted = self.predictor(projected)
            parts[f"item.{view}"] = distance(predicted, item_targets, weights)
            parts[view] = distance(predicted, self.target(view, projected, item.rows), weights)
            content = content + parts[f"item.{view}"] + parts[view]
        total = ranking + self.options.view_weight * content + self.options.reg_weight * penalty
        return {"loss": total, **parts}

    def target(self, name: str, embeddings: Tensor, rows: Tensor) -> Tensor:
        """What a prediction is pulled towards: rows `rows` of "user", "item" or a view, each given once."""
        rate = self.options.dropout if self.training else 0.0
        return drop(embeddings.detach(), rate) if rate else embeddings.detach()

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """h of all users (n_users, dim) and items (n_items, dim), before the predictor."""
        users, items = self.graph.propagate(self.user.weight, self.item.weight, self.options.n_layers)
        items = items + self.item.weight
        return users, items if self.options.as_released else self._with_cold(items)

    def forward(self) -> tuple[Tensor, Tensor]:
        users, items = (self.predictor(rows) for rows in self.embeddings())
        return users, items if self.options.as_released else items * self.known.unsqueeze(1)

    def _rows(self, user: Distinct, item: Distinct) -> tuple[Tensor, Tensor, Tensor]:
        """h of a batch's users and items, and their penalty (the released one reads the whole tables)."""
        if self.options.as_released:
            users, items = self.embeddings()
            return users[user.rows], items[item.rows], norm_loss(users, items)
        user_rows, item_rows, _, residual = self.graph.propagate_rows(
            self.user.weight, self.item.weight, self.options.n_layers, user.rows, item.rows
        )
        item_rows = item_rows + residual
        penalty = l2_loss(F.embedding(user.slots, user_rows), F.embedding(item.slots, item_rows))
        return user_rows, item_rows, penalty

    def _with_cold(self, items: Tensor) -> Tensor:
        """`items` (n_items, dim) with those that have no training interaction placed by their views."""
        directions = torch.zeros_like(items[self.cold])
        for _, projection in self._projections():
            predicted = F.normalize(self.predictor(projection(self.cold)), dim=1)
            directions = directions + predicted * projection.present[self.cold].unsqueeze(1)
        length = items.norm(dim=1).sum() / (len(items) - len(self.cold))  # cold rows are zero
        return items.index_copy(0, self.cold, length * F.normalize(directions, dim=1))

    def _projections(self) -> Iterator[tuple[str, Projection]]:
        for view, projection in zip(self.views, self.projections, strict=True):
            assert isinstance(projection, Projection)
            yield view, projection


def distance(predicted: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of 1 - cos of the rows (b, d), weighted by `weights` (b,) >= 0; 0 where all weights are. Targets
    have no gradient."""
    losses = 1 - _Cosines.apply(predicted, targets)  # type: ignore[operator]
    return losses.mean() if weights is None else (weights * losses).sum() / weights.sum().clamp(min=1)


class _Cosines(torch.autograd.Function):
    """Row-wise cosines of x and fixed y, (b, d) -> (b,); a zero row has cosine 0 and no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        tiny = torch.finfo(x.dtype).tiny
        length = torch.linalg.vector_norm(x, dim=1)
        scale = (length * torch.linalg.vector_norm(y, dim=1)).clamp_(min=tiny).reciprocal_()
        cosines = (x * y).sum(dim=1).mul_(scale)
        ctx.save_for_backward(x, y, scale, cosines / length.square().clamp(min=tiny))
        return cosines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, y, scale, along = ctx.saved_tensors
        gradient = y * (grads[0] * scale).unsqueeze(1)
        return gradient.addcmul_(x, (grads[0] * along).unsqueeze(1), value=-1), None


def drop(x: Tensor, rate: float) -> Tensor:
    """Dropout of x (n, d) without a gradient. On a CPU one draw of 64 bits decides about four values, where
    `F.dropout` takes a draw for each; `rate` is met to 2^-16."""
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    threshold = min(round(rate * 2**16), 2**16 - 1)
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= threshold - 2**15
    return x * kept * (1 / (1 - threshold / 2**16))
