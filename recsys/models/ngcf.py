"""NGCF (Wang et al., SIGIR 2019) as an encoder: messages that depend on both of their ends."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .message_graph import MessageGraph


class NGCF(nn.Module):
    """Per layer, with s the neighbours' e summed: e <- lrelu(W1 (s + e)) + lrelu(W2 (s * e)); the mean of e
    at layer 0 and of the unit vectors of e at every other, as LATTICE uses it.

    In a graph with self loops s has e in it already, so that it is not added again.
    """

    def __init__(self, graph: MessageGraph, dim: int, n_layers: int, dropout: float) -> None:
        super().__init__()
        self.graph, self.dropout = graph, dropout
        self.sums = nn.ModuleList(nn.Linear(dim, dim) for _ in range(n_layers))  # W1
        self.products = nn.ModuleList(nn.Linear(dim, dim) for _ in range(n_layers))  # W2

    def forward(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """(n_users, dim), (n_items, dim) -> the same."""
        sizes = len(users), len(items)
        embeddings = torch.cat([users, items])
        layers = [embeddings]
        for sums, products in zip(self.sums, self.products, strict=True):
            side = torch.cat(self.graph(*embeddings.split(sizes)))
            summed = sums(side if self.graph.self_loops else side + embeddings)
            embeddings = F.leaky_relu(summed) + F.leaky_relu(products(embeddings * side))
            embeddings = F.dropout(embeddings, self.dropout, self.training)
            layers.append(F.normalize(embeddings, dim=1))
        users, items = torch.stack(layers).mean(dim=0).split(sizes)
        return users, items
