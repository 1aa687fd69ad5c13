"""LightGCN passes over ids and over every view, joined by one linear map per side: SLMRec and MMGCL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modalities import Modalities, Modality
from ..one_sided import Graph, towards_items, towards_users
from .base import TrainingData
from .embeddings import Projection, id_embedding

Blocks = Sequence[Sequence[int]]  # blocks of views: block b of the result sums the views in blocks[b]


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

    def users(self, graph: Graph, inputs: list[Tensor], blocks: Blocks) -> Tensor:
        """All users, (n_users, len(blocks), dim), without b_u."""
        start, items = self._folded("user", inputs, blocks)
        return towards_users(graph, self.n_layers, start, items).view(len(start), -1, self.dim)

    def items(self, graph: Graph, inputs: list[Tensor], blocks: Blocks) -> Tensor:
        """All items, (n_items, len(blocks), dim), without b_i."""
        users, start = self._folded("item", inputs, blocks)
        return towards_items(graph, self.n_layers, users, start).view(len(start), -1, self.dim)

    def _folded(
        self, side: Literal["user", "item"], inputs: list[Tensor], blocks: Blocks
    ) -> tuple[Tensor, Tensor]:
        """Both tables of layer 0 after W, a block of `dim` columns for each of `blocks`."""
        maps = self._maps(side)
        users = self.user.weight @ torch.cat([maps[list(block)].sum(dim=0) for block in blocks], dim=1)
        items = [torch.stack([inputs[view] @ maps[view] for view in block]).sum(dim=0) for block in blocks]
        return users, torch.cat(items, dim=1)

    def raw_items(self, graph: Graph, inputs: list[Tensor]) -> Tensor:
        """H of the items, (n_items, n_views, dim), before W_i."""
        rows = towards_items(graph, self.n_layers, self.user.weight, torch.cat(inputs, dim=1))
        return rows.view(len(rows), self.n_views, self.dim)

    def join_items(self, raw: Tensor) -> Tensor:
        """W_i and b_i on rows of `raw_items`: (b, n_views, dim) -> (b, dim)."""
        return self.read_item(raw.mean(dim=1) if self.mean else raw.flatten(1))

    def forward(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Users (n_users, dim) and items (n_items, dim)."""
        inputs, everything = self.inputs(), [range(self.n_views)]
        users, items = self.users(graph, inputs, everything), self.items(graph, inputs, everything)
        return users.squeeze(1) + self.read_user.bias, items.squeeze(1) + self.read_item.bias


def unit_length(modality: Modality) -> Modality:
    """Every row at length 1; zero rows stay."""
    return Modality(F.normalize(modality.values, dim=1), modality.present)
