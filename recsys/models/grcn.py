"""GRCN (Wei et al., ACM MM 2020): a user-item graph whose edges are weighed by what the views say of them."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ..losses import bpr_loss, l2_loss
from ..modalities import Modality
from ..training_edges import TrainingEdges
from ..unit_rows import unit_rows
from .base import GradientModel, TrainingData
from .embeddings import Projection, id_embedding, require_modalities
from .snapshot import Snapshot


class GRCN(GradientModel):
    """score(u, i) of [ids on the refined graph ; content of every view]; loss = BPR + reg_weight * L2.

    Per view, a user's preference is routed towards those of the user's items that agree with it; attention
    between preferences and item features then weighs the edges, in each direction. An edge has the largest
    weight that any view gives it, times the source's confidence in that view.

    An item without a view is no neighbour in it and has no content of it. Where it has none at all, its edges
    keep uniform weights.
    """

    class Options(BaseModel, frozen=True, extra="forbid"):
        n_routing: Annotated[int, Field(ge=0)] = 3  # iterations of neighbour routing
        n_layers: Annotated[int, Field(ge=0)] = 2  # of the ids on the refined graph
        content_dim: Annotated[int, Field(ge=1)] | None = (
            None  # of preferences and projected views; dim if None
        )
        reg_weight: Annotated[float, Field(ge=0)] = 1e-4  # of the batch's ids and preferences
        as_released: bool = False  # as in MMRec: no routing, means as L2, stale scores, random cold rows

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        views, released = require_modalities("grcn", data.modalities), options.as_released
        width = options.content_dim or dim
        self.edges = TrainingEdges(data.user_idx, data.item_idx, data.n_users, data.n_items)
        self.user = id_embedding(data.user_degree, dim, not released, nn.init.xavier_normal_)
        self.item = id_embedding(data.item_degree, dim, not released, nn.init.xavier_normal_)
        self.views = nn.ModuleList(
            View(
                modality, self.edges, data.user_degree, width, 0 if released else options.n_routing, released
            )
            for modality in views.values()
        )
        self.user_confidence = nn.Parameter(torch.empty(data.n_users, len(views), device=data.device))
        self.item_confidence = nn.Parameter(torch.empty(data.n_items, len(views), device=data.device))
        nn.init.xavier_normal_(self.user_confidence)
        nn.init.xavier_normal_(self.item_confidence)
        bare = ~torch.stack([modality.present for modality in views.values()]).any(dim=0)[data.item_idx]
        self.bare: Tensor | None
        self.register_buffer("bare", bare if bare.any() else None, persistent=False)
        total = dim + width * len(views)
        self.snapshot = Snapshot(data.n_users, data.n_items, total, data.device) if released else None

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        user_parts, item_parts = self._represent()
        if self.snapshot is not None:
            self.snapshot.take(torch.cat(user_parts, dim=1), torch.cat(item_parts, dim=1))
        items = torch.cat([positives, negatives])
        rows = torch.cat([F.embedding(users, table) for table in user_parts], dim=1)
        item_rows = torch.cat([F.embedding(items, table) for table in item_parts], dim=1)
        chosen, others = item_rows.chunk(2)
        bpr = bpr_loss(rows, chosen, others)
        reg = self._penalty(users, positives, negatives)
        return {"loss": bpr + self.options.reg_weight * reg, "bpr": bpr, "reg": reg}

    def _penalty(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        ids = self.user(users), self.item(positives), self.item(negatives)
        preferences = [view.preference.weight for view in self.views]  # type: ignore[union-attr]
        if self.snapshot is None:
            return l2_loss(*ids, *(F.embedding(users, table) for table in preferences))  # type: ignore[arg-type]
        of_ids = ids[0].square().mean() + torch.cat(ids[1:]).square().mean()
        of_users = [F.embedding(users, table).square().mean() for table in preferences]  # type: ignore[arg-type]
        return of_ids + preferences[0].square().mean() + torch.stack(of_users).sum()  # type: ignore[operator]

    def forward(self) -> tuple[Tensor, Tensor]:
        if self.snapshot is not None and self.snapshot.taken:
            return self.snapshot.users, self.snapshot.items
        users, items = self._represent()
        return torch.cat(users, dim=1), torch.cat(items, dim=1)

    def _represent(self) -> tuple[list[Tensor], list[Tensor]]:
        """The blocks of columns of users and items: ids (n, dim), then every view (n, content_dim)."""
        contents, to_users, to_items = zip(*(view() for view in self.views), strict=True)
        edges = self.edges
        weights = (
            self._refined(to_users, self.item_confidence, edges.columns, edges.rows, self.n_users),
            self._refined(to_items, self.user_confidence, edges.rows, edges.columns, self.n_items),
        )
        first_users, first_items = unit_rows(self.user.weight), unit_rows(self.item.weight)
        users, items = first_users, first_items
        for _ in range(self.options.n_layers):  # Horner: the sum of all layers
            users, items = (
                edges.product(weights[0], items, first_users),
                edges.transposed_product(weights[1], users, first_items),
            )
        return [users, *(content[0] for content in contents)], [items, *(content[1] for content in contents)]

    def _refined(
        self, attention: tuple[Tensor, ...], confidence: Tensor, sources: Tensor, targets: Tensor, n: int
    ) -> Tensor:
        """Edge weights of one direction, (n_edges,): relu of the best view's attention x confidence."""
        weighted = torch.stack(attention, dim=1) * confidence.index_select(0, sources)  # (n_edges, n_views)
        weights = torch.relu(weighted.amax(dim=1))
        if self.bare is None:
            return weights
        return weights.where(~self.bare, 1 / torch.bincount(targets, minlength=n)[targets])


class View(nn.Module):
    """Preferences of users and features of items in one view, joined by attention over the training edges."""

    edge_present: Tensor | None  # (n_edges,) bool, None when every item has the view

    def __init__(
        self,
        modality: Modality,
        edges: TrainingEdges,
        user_degree: Tensor,
        width: int,
        n_routing: int,
        released: bool,
    ) -> None:
        super().__init__()
        self.edges, self.n_routing = edges, n_routing
        self.preference = id_embedding(user_degree, width, not released, nn.init.xavier_normal_)
        self.project = Projection(modality, width, bias=True)
        complete = bool(modality.present.all())
        edge_present = None if complete else modality.present[edges.columns]
        self.register_buffer("edge_present", edge_present, persistent=False)

    def forward(self) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """(content of users, of items), attention of users over their items, of items over their users."""
        items = unit_rows(F.leaky_relu(self.project.table()))  # zero where absent
        users = unit_rows(self.preference.weight)
        edges, mask = self.edges, self.edge_present
        for _ in range(self.n_routing):
            attention = edges.softmax_over_items(edges.dots(users, items), mask)
            users = unit_rows(edges.product(attention, items, users))
        scores = edges.dots(users, items)
        of_users, of_items = edges.softmax_over_items(scores, mask), edges.softmax_over_users(scores, mask)
        content = edges.product(of_users, items, users), edges.transposed_product(of_items, users, items)
        return content, of_users, of_items
