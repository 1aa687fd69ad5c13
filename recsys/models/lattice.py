"""LATTICE (Zhang et al., ACM MM 2021): an item graph that is learned from features along with the rest."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ..edges import EdgePattern
from ..graph import BipartiteGraph, SparseProduct
from ..losses import bpr_loss, l2_loss
from .base import GradientModel, TrainingData
from .embeddings import id_embedding, require_modalities
from .learned_graph import LearnedGraph, Neighbours
from .message_graph import MessageGraph
from .ngcf import NGCF


class LATTICE(GradientModel):
    """item = collaborative item + h / |h|, h = S^L q; loss = BPR + reg_weight * L2 of the batch rows.

    S is a `LearnedGraph`. Its neighbours are found anew in the first batch of an epoch and last until the
    next; so do its values, which that batch alone trains, unless `train_graph` says otherwise. For serving it
    is found from the final parameters.
    """

    class Options(BaseModel, frozen=True, extra="forbid"):
        cf_model: Literal["lightgcn", "mf", "ngcf"] = "lightgcn"  # the collaborative part
        n_layers: Annotated[int, Field(ge=0)] = 2  # of the user-item graph
        n_item_layers: Annotated[int, Field(ge=0)] = 1  # of the item graph, L
        k: Annotated[int, Field(ge=1)] = 10  # neighbours of an item in one view, itself included
        feature_dim: Annotated[int, Field(ge=1)] = 64  # of the projections that the graph is learned in
        original_share: Annotated[float, Field(ge=0, le=1)] = 0.9  # lambda, of the raw features' graphs
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of the messages of ngcf
        reg_weight: Annotated[float, Field(ge=0)] = 1e-4
        reg_batch_size: Annotated[int, Field(ge=1)] | None = None  # divisor of L2; default: rows of the batch
        train_graph: Literal["first-batch", "every-batch"] = "first-batch"  # of an epoch
        train_features: bool = False  # fine-tune the feature tables too, as the released code does
        as_released: bool = (
            False  # as in MMRec: the user-item graph is D^-1 (A + I), learned graphs are scaled
        )
        # after they are mixed, negative similarities are kept, cold rows start at random
        memory_mb: Annotated[int, Field(ge=1)] = 512  # budget of the neighbour search

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        views = require_modalities("lattice", data.modalities)
        self.user = id_embedding(data.user_degree, dim, zero_cold=not options.as_released)
        self.item = id_embedding(data.item_degree, dim, zero_cold=not options.as_released)
        self.learned = LearnedGraph(
            views,
            options.feature_dim,
            options.k,
            options.original_share,
            clip=not options.as_released,
            scale_mixture=options.as_released,
            train_features=options.train_features,
            memory_mb=options.memory_mb,
        )
        self.item_graph: SparseProduct | None = None  # S of this epoch, once its first batch has found it
        self.neighbours: Neighbours | None = None  # of S, where every batch trains its values
        self.collaborative = self._encoder(data, dim)

    def _encoder(self, data: TrainingData, dim: int) -> nn.Module | None:
        options = self.options
        if options.cf_model == "mf":
            return None
        if options.cf_model == "lightgcn" and not options.as_released:
            return BipartiteGraph(data.user_idx, data.item_idx, data.n_users, data.n_items)
        graph = MessageGraph(data, self_loops=options.as_released)
        if options.cf_model == "lightgcn":
            return graph
        return NGCF(graph, dim, options.n_layers, options.dropout).to(data.device)

    def start_epoch(self, generator: torch.Generator) -> None:
        """Let the first batch find the item graph anew."""
        self.item_graph = self.neighbours = None

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        items = torch.cat([positives, negatives])
        rows, item_rows = self._collaborative_rows(users, items)
        content = F.normalize(F.embedding(items, self._training_content()), dim=1)
        chosen, others = (item_rows + content).chunk(2)
        bpr = bpr_loss(rows, chosen, others)
        penalty = l2_loss(rows, chosen, others) * (len(users) / (self.options.reg_batch_size or len(users)))
        return {"loss": bpr + self.options.reg_weight * penalty, "bpr": bpr, "reg": penalty}

    def forward(self) -> tuple[Tensor, Tensor]:
        users, items = self._collaborative_tables()
        return users, items + F.normalize(self._content(*self.learned()), dim=1)

    def _training_content(self) -> Tensor:
        """h, (n_items, dim): in batches that train the graph with the gradient to it."""
        if self.options.train_graph == "every-batch":
            self.neighbours = self.neighbours or self.learned.neighbours()
            return self._content(*self.learned(self.neighbours))
        if self.item_graph is None:
            pattern, values = self.learned()
            self.item_graph = SparseProduct(pattern.rows, pattern.columns, values.detach(), pattern.shape)
            return self._content(pattern, values)
        content = self.item.weight
        for _ in range(self.options.n_item_layers):
            content = self.item_graph(content)
        return content

    def _content(self, pattern: EdgePattern, values: Tensor) -> Tensor:
        content = self.item.weight
        for _ in range(self.options.n_item_layers):
            content = pattern.product(values, content)
        return content

    def _collaborative_tables(self) -> tuple[Tensor, Tensor]:
        """All users (n_users, dim) and items (n_items, dim) before the item graph's part."""
        users, items, encoder = self.user.weight, self.item.weight, self.collaborative
        if isinstance(encoder, BipartiteGraph):
            return encoder.propagate(users, items, self.options.n_layers)
        if isinstance(encoder, MessageGraph):
            return encoder.mean_of_layers(users, items, self.options.n_layers)
        return (users, items) if encoder is None else encoder(users, items)

    def _collaborative_rows(self, user_idx: Tensor, item_idx: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of a batch of `_collaborative_tables`."""
        if isinstance(self.collaborative, BipartiteGraph):
            users, items, _, _ = self.collaborative.propagate_rows(
                self.user.weight, self.item.weight, self.options.n_layers, user_idx, item_idx
            )
            return users, items
        users, items = self._collaborative_tables()
        return F.embedding(user_idx, users), F.embedding(item_idx, items)
