"""MMGCN (Wei et al., ACM MM 2019): one graph network per view, all around the same id embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ..graph import SparseProduct
from ..losses import bpr_loss, l2_loss
from ..modalities import Modality, is_image_view
from ..unit_rows import unit_rows
from .base import GradientModel, TrainingData
from .embeddings import id_embedding, require_modalities, unit_length
from .snapshot import Snapshot

Sides = tuple[Tensor, Tensor]  # rows of users and of items


class MMGCN(GradientModel):
    """score(u, i) of the mean over views of their networks' outputs; loss = BPR + reg_weight * L2.

    A view's network starts from the users' preferences and the items' features. An item without the view
    sends nothing in the first layer and starts from its id; it has an output of that view if users reach it.
    """

    class Options(BaseModel, frozen=True, extra="forbid"):
        n_layers: Annotated[int, Field(ge=1)] = 2
        hidden_dim: Annotated[int, Field(ge=1)] = 256  # wider views are mapped to this, narrower ones stay
        reg_weight: Annotated[float, Field(ge=0)] = 1e-4  # of the batch's ids and preferences
        # as in MMRec: 3 layers, ids and preferences stay at random, image views alone are mapped, means as L2
        # (of the ids and an image's preferences), stale scores
        as_released: bool = False

    view_shares: Tensor | None  # (n_items, n_views), weights of the views' outputs; None where all are equal

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        views, released = require_modalities("mmgcn", data.modalities), options.as_released
        self.user = id_embedding(data.user_degree, dim, not released, nn.init.xavier_normal_)
        self.item = id_embedding(data.item_degree, dim, not released, nn.init.xavier_normal_)
        self.branches = nn.ModuleList(
            Branch(
                data,
                modality,
                dim,
                3 if released else options.n_layers,
                options.hidden_dim
                if (is_image_view(name) if released else modality.dim > options.hidden_dim)
                else None,
                released,
            )
            for name, modality in views.items()
        )
        self.image = next((number for number, name in enumerate(views) if is_image_view(name)), None)
        if released:
            for table in (self.user, self.item, *(branch.preference for branch in self.branches)):
                table.requires_grad_(False)
        present = torch.stack([modality.present for modality in views.values()], dim=1)
        reached = (present | (data.item_degree > 0).unsqueeze(1)).float()
        shares = reached / reached.sum(dim=1, keepdim=True).clamp(min=1)
        self.register_buffer("view_shares", None if reached.all() else shares, persistent=False)
        self.snapshot = Snapshot(data.n_users, data.n_items, dim, data.device) if released else None

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        user_outputs, item_outputs = self._represent()
        if self.snapshot is not None:
            self.snapshot.take(mean(user_outputs), mean(item_outputs))
        items = torch.cat([positives, negatives])
        rows = mean([F.embedding(users, table) for table in user_outputs])
        chosen, others = mean([F.embedding(items, table) for table in item_outputs]).chunk(2)
        bpr = bpr_loss(rows, chosen, others)
        reg = self._penalty(users, positives, negatives)
        return {"loss": bpr + self.options.reg_weight * reg, "bpr": bpr, "reg": reg}

    def _penalty(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        ids = self.user(users), self.item(positives), self.item(negatives)
        tables = [branch.preference for branch in self.branches]
        if self.snapshot is None:
            return l2_loss(*ids, *(table(users) for table in tables))  # type: ignore[operator]
        of_ids = ids[0].square().mean() + torch.cat(ids[1:]).square().mean()
        return of_ids if self.image is None else of_ids + tables[self.image].weight.square().mean()  # type: ignore[operator, union-attr]

    def forward(self) -> Sides:
        if self.snapshot is not None and self.snapshot.taken:
            return self.snapshot.users, self.snapshot.items
        users, items = self._represent()
        return mean(users), mean(items)

    def _represent(self) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs of all views, of users and of items, whose means are the representations."""
        ids = self.user.weight, self.item.weight
        users, items = zip(*(branch(ids) for branch in self.branches), strict=True)
        if self.view_shares is not None:
            shares = self.view_shares.unsqueeze(2).unbind(dim=1)  # (n_items, 1) of every view
            items = [rows * share * len(shares) for rows, share in zip(items, shares, strict=True)]
        return list(users), list(items)


def mean(tables: list[Tensor]) -> Tensor:
    return torch.stack(tables).mean(dim=0)


class Branch(nn.Module):
    """The network of one view: (id rows of users, of items), each (n, dim), to outputs of the same shape."""

    features: Tensor | None  # (n_items, d), of unit length unless they are mapped first; None if learned
    present: Tensor | None  # (n_items, 1) bool, None when every item has the view

    def __init__(
        self,
        data: TrainingData,
        modality: Modality,
        dim: int,
        n_layers: int,
        hidden_dim: int | None,
        random_cold: bool,
    ) -> None:
        super().__init__()
        width = hidden_dim or modality.dim
        device = data.device
        self.preference = id_embedding(data.user_degree, width, not random_cold, nn.init.xavier_normal_)
        self.map = nn.Linear(modality.dim, width, device=device) if hidden_dim else None
        view = modality if self.map else unit_length(modality)
        self.learned = view.learned.module() if view.learned else None
        self.register_buffer("features", None if self.learned else view.values, persistent=False)
        complete = bool(modality.present.all())
        self.register_buffer("present", None if complete else modality.present.unsqueeze(1), persistent=False)
        self.layers = nn.ModuleList(
            Layer(width if number == 0 else dim, dim).to(device) for number in range(n_layers)
        )
        u, i, n_users, n_items = data.user_idx, data.item_idx, data.n_users, data.n_items
        self.to_items = mean_over(i, u, (n_items, n_users))
        self.to_users = mean_over(u, i, (n_users, n_items))
        held = modality.present[i]
        self.first_to_users = self.to_users if complete else mean_over(u[held], i[held], (n_users, n_items))

    def forward(self, ids: Sides) -> Sides:
        users = unit_rows(self.preference.weight)
        items = self._features()
        if self.map:
            items = unit_rows(self.map(items))
        present = self.present
        if present is not None:
            items = items * present
        for number, layer in enumerate(self.layers):
            to_users = self.to_users if number else self.first_to_users
            users, items = layer((users, items), ids, to_users, self.to_items, None if number else present)
        return users, items

    def _features(self) -> Tensor:
        if self.features is not None:
            return self.features
        assert self.learned is not None
        return self.learned(None)


class Layer(nn.Module):
    """Mean of the neighbours, then the node itself around its id (eq. 2-5, concatenation)."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.aggregate = nn.Parameter(torch.empty(width, width))  # W_1
        self.own = nn.Linear(width, dim)  # W_2
        self.of_neighbours = nn.Linear(width, dim, bias=False)  # W_3, split: no copy of [h ; x_hat]
        self.of_own = nn.Linear(dim, dim)
        for weight in (self.aggregate, self.own.weight, self.of_neighbours.weight, self.of_own.weight):
            nn.init.xavier_normal_(weight)

    def forward(
        self,
        rows: Sides,
        ids: Sides,
        to_users: Callable[[Tensor], Tensor],
        to_items: Callable[[Tensor], Tensor],
        present: Tensor | None,
    ) -> Sides:
        users, items = rows
        if len(items) <= len(users):  # (A x) W = A (x W): W is applied on the side with fewer rows
            from_items, from_users = to_users(items @ self.aggregate), to_items(users) @ self.aggregate
        else:
            from_items, from_users = to_users(items) @ self.aggregate, to_items(users @ self.aggregate)
        return (
            self._combine(from_items, F.leaky_relu(self.own(users), inplace=True), ids[0]),
            self._combine(from_users, self._own_items(items, present), ids[1]),
        )

    def _own_items(self, items: Tensor, present: Tensor | None) -> Tensor:
        own = F.leaky_relu(self.own(items), inplace=True)
        return own if present is None else own * present

    def _combine(self, neighbours: Tensor, own: Tensor, ids: Tensor) -> Tensor:
        joined = torch.addmm(
            self.of_own(own + ids), F.leaky_relu(neighbours, inplace=True), self.of_neighbours.weight.T
        )
        return F.leaky_relu(joined, inplace=True)


def mean_over(rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> SparseProduct:
    """The mean of the columns paired with a row; 0 where there is none."""
    degree = torch.bincount(rows, minlength=shape[0]).float()
    return SparseProduct(rows, columns, 1 / degree[rows], shape)
