"""The user-item graph one layer at a time, for encoders that do more between layers than LightGCN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..graph import SparseProduct, edge_weights
from .base import TrainingData


class MessageGraph(nn.Module):
    """(users, items) -> their neighbours' embeddings, summed with the weights (d_u d_i)^-1/2. With
    `self_loops` instead the plain mean over the neighbours and the node itself, D^-1 (A + I)."""

    user_loop: Tensor  # (n_users, 1) weight of the node itself
    item_loop: Tensor

    def __init__(self, data: TrainingData, self_loops: bool) -> None:
        super().__init__()
        users, items, n_users, n_items = data.user_idx, data.item_idx, data.n_users, data.n_items
        self.self_loops = self_loops
        user_mean, item_mean = 1 / (data.user_degree + 1.0), 1 / (data.item_degree + 1.0)
        weights = edge_weights(users, items, n_users, n_items)
        self.to_users = SparseProduct(
            users, items, user_mean[users] if self_loops else weights, (n_users, n_items)
        )
        self.to_items = SparseProduct(
            items, users, item_mean[items] if self_loops else weights, (n_items, n_users)
        )
        self.register_buffer("user_loop", self_loops * user_mean.unsqueeze(1), persistent=False)
        self.register_buffer("item_loop", self_loops * item_mean.unsqueeze(1), persistent=False)

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return self.user_loop * users + self.to_users(items), self.item_loop * items + self.to_items(users)

    def mean_of_layers(self, users: Tensor, items: Tensor, n_layers: int) -> tuple[Tensor, Tensor]:
        """Mean of the layers 0..n_layers, (n_users, d) and (n_items, d)."""
        layers = [(users, items)]
        for _ in range(n_layers):
            layers.append(self(*layers[-1]))
        users, items = (torch.stack(side).mean(dim=0) for side in zip(*layers, strict=True))
        return users, items
