"""MGCN (Yu et al., ACM MM 2023): item features purified and fused by the guidance of behaviour."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ..cosine_graph import cosine_graph
from ..graph import BipartiteGraph, product, take_rows
from ..losses import bpr_loss, l2_loss
from ..modalities import Modality
from .base import GradientModel, TrainingData
from .contrastive import cosine_contrast
from .distinct import Distinct, all_rows, distinct
from .embeddings import Projection, id_embedding, require_modalities


class MGCN(GradientModel):
    """score(u, i) of c + side, c the LightGCN embeddings and side the fusion of what each view m says, e_m:

    items e_m = S_m^L (q * gate_m(f_m)) over the view's cosine graph, users the sum of their items' e_m. With
    attention a over views, common = sum of a_m e_m; side is the mean of common and of the specific parts
    (e_m - common) * preference_m(c). Loss = BPR + contrast_weight * (InfoNCE of side and c, for users and for
    items) + reg_weight * L2. Items without a view, and users none of whose items has it, have no e_m: a, the
    mean and the contrast are over what there is.
    """

    rows_independent = False  # the contrast is within a batch

    class Options(BaseModel, frozen=True, extra="forbid"):
        n_layers: Annotated[int, Field(ge=0)] = 2  # of the user-item graph
        n_item_layers: Annotated[int, Field(ge=0)] = 1  # of the item graphs, L
        k: Annotated[int, Field(ge=1)] = 10  # neighbours of an item in one view, itself included
        contrast_weight: Annotated[float, Field(ge=0)] = 0.01  # lambda_C
        temperature: Annotated[float, Field(gt=0)] = 0.2  # tau, of the contrast
        reg_weight: Annotated[float, Field(ge=0)] = 1e-4  # lambda_E
        reg_batch_size: Annotated[int, Field(ge=1)] | None = None  # divisor of L2; default: rows of the batch
        train_features: bool = False  # fine-tune the feature tables too, as the released code does
        as_released: bool = False  # as in MMRec: negative similarities are kept, cold rows start at random
        memory_mb: Annotated[int, Field(ge=1)] = 512  # budget of the neighbour search

    item_held: Tensor  # (n_items, n_views) bool: has the item this view?
    user_held: Tensor  # (n_users, n_views) bool: has one of the user's items?
    user_scale: Tensor  # (n_users, n_views): from degrees over all items to degrees over those with the view

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        views = require_modalities("mgcn", data.modalities)
        self.user = id_embedding(data.user_degree, dim, zero_cold=not options.as_released)
        self.item = id_embedding(data.item_degree, dim, zero_cold=not options.as_released)
        self.views = nn.ModuleList(PurifiedView(view, dim, options) for view in views.values())
        self.fusion = Fusion(dim, len(views)).to(data.device)
        self.graph = BipartiteGraph(data.user_idx, data.item_idx, data.n_users, data.n_items)
        item_held = torch.stack([view.present & view.values.any(dim=1) for view in views.values()], dim=1)
        degrees = torch.zeros(data.n_users, len(views), device=data.device)
        degrees.index_add_(0, data.user_idx, item_held[data.item_idx].float())
        scale = (data.user_degree.unsqueeze(1) / degrees.clamp(min=1)).sqrt()
        self.register_buffer("item_held", item_held, persistent=False)
        self.register_buffer("user_held", degrees > 0, persistent=False)
        self.register_buffer("user_scale", scale, persistent=False)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        user, positive = distinct(users), distinct(positives)
        items = torch.cat([positive.rows, negatives])
        user_rows, item_rows, _, _ = self.graph.propagate_rows(
            self.user.weight, self.item.weight, self.options.n_layers, user.rows, items
        )
        views = [view(self.item.weight) for view in self.views]
        user_side = self._user_side(user_rows, views, user.rows)
        item_side = self._item_side(item_rows, views, items)
        chosen, others = (item_rows + item_side).split([len(positive.rows), len(negatives)])
        rows = (
            F.embedding(user.slots, user_rows + user_side),
            F.embedding(positive.slots, chosen),
            others,
        )
        parts = {
            "bpr": bpr_loss(*rows),
            "reg": l2_loss(*rows) * (len(users) / (self.options.reg_batch_size or len(users))),
            "contrast.user": self._contrast(user_side, user_rows, user, self.user_held),
            "contrast.item": self._contrast(
                item_side[: len(chosen)], item_rows[: len(chosen)], positive, self.item_held
            ),
        }
        contrast = self.options.contrast_weight * (parts["contrast.user"] + parts["contrast.item"])
        return {"loss": parts["bpr"] + self.options.reg_weight * parts["reg"] + contrast, **parts}

    def forward(self) -> tuple[Tensor, Tensor]:
        users, items = self.graph.propagate(self.user.weight, self.item.weight, self.options.n_layers)
        user_side, item_side = self.sides(users, items)
        return users + user_side, items + item_side

    def sides(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """side of all users (n_users, dim) and items (n_items, dim), from their LightGCN embeddings c."""
        views = [view(self.item.weight) for view in self.views]
        user_side = self._user_side(users, views, all_rows(self.n_users, users))
        return user_side, self._item_side(items, views, all_rows(self.n_items, items))

    def _user_side(self, embeddings: Tensor, views: list[Tensor], rows: Tensor) -> Tensor:
        """side of the users `rows` from their c, (b, dim), and from e of all items, each (n_items, dim)."""
        matrix, transpose = take_rows(self.graph.to_users, rows)
        scales = self.user_scale[rows].split(1, dim=1)
        sums = [product(matrix, transpose, view) * scale for view, scale in zip(views, scales, strict=True)]
        return self.fusion(embeddings, sums, self.user_held[rows])

    def _item_side(self, embeddings: Tensor, views: list[Tensor], rows: Tensor) -> Tensor:
        return self.fusion(embeddings, [F.embedding(rows, view) for view in views], self.item_held[rows])

    def _contrast(self, side: Tensor, embeddings: Tensor, distinct_rows: Distinct, held: Tensor) -> Tensor:
        """InfoNCE between both representations of a node, among those that have a view."""
        valid = held[distinct_rows.rows].any(dim=1)
        return cosine_contrast(side, embeddings, distinct_rows, self.options.temperature, valid)


class PurifiedView(nn.Module):
    """e_m of all items, (n_items, dim): what of the item embeddings q a view lets pass, smoothed over the
    graph of the view (behavior-guided purifier; zero for items without the view)."""

    def __init__(self, modality: Modality, dim: int, options: MGCN.Options) -> None:
        super().__init__()
        self.n_layers = options.n_item_layers
        self.projection = Projection(modality, dim, bias=True, train_features=options.train_features)
        self.gate = nn.Linear(dim, dim, device=modality.values.device)
        self.graph = cosine_graph(modality, options.k, not options.as_released, options.memory_mb)

    def forward(self, items: Tensor) -> Tensor:
        features = self.projection.unmasked_table()  # absent items have no edges: no mask
        purified = items * torch.sigmoid(self.gate(features))
        for _ in range(self.n_layers):
            purified = self.graph(purified)
        return purified if self.n_layers else purified * self.projection.present.unsqueeze(1)


class Fusion(nn.Module):
    """Views to one representation: their common part and, as far as behaviour prefers a view, what is
    specific to it (behavior-aware fuser)."""

    def __init__(self, dim: int, n_views: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))
        self.preferences = nn.ModuleList(nn.Linear(dim, dim) for _ in range(n_views))

    def forward(self, embeddings: Tensor, views: list[Tensor], held: Tensor) -> Tensor:
        """c (b, dim); e (b, dim) per view, zero where `held` (b, n_views) is False -> (b, dim)."""
        absent = ~held & held.any(dim=1, keepdim=True)  # rows without any view: all e are zero anyway
        scores = torch.cat([self.attention(view) for view in views], dim=1)
        weights = scores.masked_fill(absent, -torch.inf).softmax(dim=1).split(1, dim=1)
        common = torch.stack([weight * view for weight, view in zip(weights, views, strict=True)]).sum(dim=0)
        total = common
        for view, preference, has in zip(views, self.preferences, held.split(1, dim=1), strict=True):
            total = total + (view - common) * (torch.sigmoid(preference(embeddings)) * has)
        return total / (held.sum(dim=1, keepdim=True) + 1)
