"""LightGCN passes over ids and over every view, joined by one linear map per side: SLMRec and MMGCL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from ..modalities import Modalities
from ..one_sided import Graph, towards_items, towards_users
from .base import TrainingData
from .embeddings import Projection, id_embedding, unit_length


class ViewFusion(nn.Module):
    """User = W_u [H_id ; H_1 ; ..] + b_u, item = W_i [H_id ; H_1 ; ..] + b_i; view 0 are the ids.

    H_m are passes over [P ; x_m W_m], P the one user table of all views, x_m features of unit length. What an
    item lacks starts at zero, without the bias of W_m, and takes what its users bring.

    W_u and W_i are applied before the pass, not after it (`one_sided`): all passes together cost as much as
    one of LightGCN.
    """

    def __init__(
        self, data: TrainingData, views: Modalities, dim: int, n_layers: int, mean: bool, zero_cold: bool
    ) -> None:
        super().__init__()
        self.dim, self.n_layers, self.mean, self.n_views = dim, n_layers, mean, 1 + len(views)
        self.user = id_embedding(data.user_degree, dim, zero_cold)
        self.item = id_embedding(data.item_degree, dim, zero_cold)
        self.projections = nn.ModuleList(
            Projection(unit_length(modality), dim, bias=True) for modality in views.values()
        )
        width = dim if mean else self.n_views * dim
        self.read_user = nn.Linear(width, dim, device=data.device)
        self.read_item = nn.Linear(width, dim, device=data.device)

    def inputs(self) -> list[Tensor]:
        """Layer 0 of the items in every view, each (n_items, dim)."""
        return [self.item.weight, *(projection.table() for projection in self.projections)]  # type: ignore[operator]

    def _maps(self, side: Literal["user", "item"]) -> Tensor:
        """The part of W that reads each view, (n_views, dim, dim): rows x -> x @ part."""
        weight = (self.read_user if side == "user" else self.read_item).weight  # (dim, width)
        if self.mean:
            return (weight.T / self.n_views).expand(self.n_views, -1, -1)
        return weight.view(self.dim, self.n_views, self.dim).permute(1, 2, 0)

    def users(self, graph: Graph, inputs: list[Tensor], views: Iterable[int]) -> Tensor:
        """What `views` add to all users, (n_users, dim), without b_u."""
        return towards_users(graph, self.n_layers, *self._folded("user", inputs, list(views)))

    def items(self, graph: Graph, inputs: list[Tensor], views: Iterable[int]) -> Tensor:
        """What `views` add to all items, (n_items, dim), without b_i."""
        return towards_items(graph, self.n_layers, *self._folded("item", inputs, list(views)))

    def _folded(
        self, side: Literal["user", "item"], inputs: list[Tensor], views: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Layer 0 of users and items after W, each (n, dim), summed over `views`."""
        maps = self._maps(side)
        items = sum((inputs[view] @ maps[view] for view in views[1:]), inputs[views[0]] @ maps[views[0]])
        return self.user.weight @ maps[views].sum(dim=0), items

    def raw_items(self, graph: Graph, inputs: list[Tensor]) -> list[Tensor]:
        """H of the items in every view, each (n_items, dim), before W_i."""
        return [towards_items(graph, self.n_layers, self.user.weight, start) for start in inputs]

    def join_items(self, raw: list[Tensor]) -> Tensor:
        """W_i and b_i on rows of `raw_items`: n_views times (b, dim) -> (b, dim)."""
        return self.read_item(torch.stack(raw).mean(dim=0) if self.mean else torch.cat(raw, dim=1))

    def forward(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Users (n_users, dim) and items (n_items, dim)."""
        inputs, views = self.inputs(), range(self.n_views)
        users, items = self.users(graph, inputs, views), self.items(graph, inputs, views)
        return users + self.read_user.bias, items + self.read_item.bias
