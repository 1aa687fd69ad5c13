"""FREEDOM (Zhou & Shen, ACM MM 2023): a frozen item graph from features, a denoised user-item graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ..graph import BipartiteGraph, SparseProduct, edge_weights
from ..knn import nearest_items
from ..losses import bpr_loss, margin_loss
from ..modalities import Modalities, is_image_view
from .base import GradientModel, TrainingData
from .contrastive import sampled_softmax
from .embeddings import Projection, id_embedding, require_modalities
from .lightgcn import DEGREE_EPSILON


class FREEDOM(GradientModel):
    """item = LightGCN item + S^L q, S the item graph; loss = BPR + reg_weight * sum of BPR(user, view m).

    An item without a view has no edge in that view's graph and no term in its BPR; the rows of S are shared
    out among the views that the item has. With `loss = "softmax"` the first BPR is a sampled softmax of
    cosines, as in LightGCN, and item vectors have unit length.
    """

    class Options(BaseModel, frozen=True, extra="forbid"):
        n_layers: Annotated[int, Field(ge=0)] = 2  # of the user-item graph
        n_item_layers: Annotated[int, Field(ge=0)] = 1  # of the item graph, L
        k: Annotated[int, Field(ge=1)] = 10  # neighbours of an item in one view, itself included
        image_weight: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of the image views in the item graph
        edge_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.8  # share of user-item edges dropped per epoch
        reg_weight: Annotated[float, Field(ge=0)] = 1e-3  # lambda, of the views' own BPR terms
        loss: Literal["bpr", "softmax"] = "bpr"
        temperature: Annotated[float, Field(gt=0)] = 0.2  # of the softmax
        train_features: bool = False  # fine-tune the feature tables too, as the released code does
        as_released: bool = False  # as in MMRec: epsilon added to degrees, cold rows start at random
        memory_mb: Annotated[int, Field(ge=1)] = 512  # budget of the neighbour search

    user_idx: Tensor  # (n,) the training pairs
    item_idx: Tensor

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        views = require_modalities("freedom", data.modalities)
        self.rows_independent = options.loss == "bpr"
        self.user = id_embedding(data.user_degree, dim, zero_cold=not options.as_released)
        self.item = id_embedding(data.item_degree, dim, zero_cold=not options.as_released)
        self.projections = nn.ModuleList(
            Projection(modality, dim, bias=True, train_features=options.train_features)
            for modality in views.values()
        )
        self.item_graph = item_graph(views, options.k, options.image_weight, options.memory_mb)
        self.views = tuple(views)
        self.register_buffer("user_idx", data.user_idx, persistent=False)
        self.register_buffer("item_idx", data.item_idx, persistent=False)
        self.graph = self.training_graph = self._bipartite(data.user_idx, data.item_idx)

    def start_epoch(self, generator: torch.Generator) -> None:
        """Keep (1 - edge_dropout) of the edges, drawn without replacement with probabilities proportional to
        (d_u d_i)^-1/2: edges between popular nodes go first."""
        if self.options.edge_dropout:
            n_kept = round(len(self.user_idx) * (1 - self.options.edge_dropout))
            weights = edge_weights(self.user_idx, self.item_idx, self.n_users, self.n_items)
            # exponential races: the n smallest of Exp(1) / w are a draw without replacement
            arrival = torch.empty(len(weights), dtype=torch.float64, device=generator.device)
            arrival.exponential_(generator=generator)
            self.keep_edges(torch.topk(arrival.to(weights.device) / weights, n_kept, largest=False).indices)

    def keep_edges(self, edges: Tensor) -> None:
        """Train on these rows of the training pairs alone, normalised by their own degrees."""
        edges = edges.sort().values  # pairs stay sorted by (user, item)
        self.training_graph = self._bipartite(self.user_idx[edges], self.item_idx[edges])

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        items = torch.cat([positives, negatives])
        rows, item_rows, _, _ = self.training_graph.propagate_rows(
            self.user.weight, self.item.weight, self.options.n_layers, users, items
        )
        chosen, others = (item_rows + F.embedding(items, self._content())).chunk(2)
        ranking = self.options.loss
        if ranking == "bpr":
            parts = {ranking: bpr_loss(rows, chosen, others)}
        else:
            parts = {ranking: sampled_softmax(rows, chosen, others, self.options.temperature)}
        if not self.options.reg_weight:
            return {"loss": parts[ranking], **parts}
        content = rows.new_zeros(())
        for view, projection in self._projections():
            valid = projection.present[positives] & projection.present[negatives]
            margin = (rows * projection.difference(positives, negatives)).sum(dim=1)
            parts[f"bpr.{view}"] = margin_loss(margin, valid=valid)
            content = content + parts[f"bpr.{view}"]
        return {"loss": parts[ranking] + self.options.reg_weight * content, **parts}

    def _projections(self) -> Iterator[tuple[str, Projection]]:
        for view, projection in zip(self.views, self.projections, strict=True):
            assert isinstance(projection, Projection)
            yield view, projection

    def forward(self) -> tuple[Tensor, Tensor]:
        user, item = self.graph.propagate(self.user.weight, self.item.weight, self.options.n_layers)
        items = item + self._content()
        return user, items if self.options.loss == "bpr" else F.normalize(items, dim=1)

    def _content(self) -> Tensor:  # h = S^L q, (n_items, dim)
        content = self.item.weight
        for _ in range(self.options.n_item_layers):
            content = self.item_graph(content)
        return content

    def _bipartite(self, user_idx: Tensor, item_idx: Tensor) -> BipartiteGraph:
        epsilon = DEGREE_EPSILON if self.options.as_released else 0.0
        return BipartiteGraph(user_idx, item_idx, self.n_users, self.n_items, epsilon)


def view_weights(views: Iterable[str], image_weight: float) -> dict[str, float]:
    """Share of each view in the item graph: image views ("image.*", "image", "visual") split `image_weight`
    equally, all others the rest; one family alone takes everything."""
    names = list(views)
    images = [name for name in names if is_image_view(name)]
    others = [name for name in names if name not in images]
    share = image_weight if images and others else float(bool(images))
    return {name: share / len(images) if name in images else (1 - share) / len(others) for name in names}


def item_graph(views: Modalities, k: int, image_weight: float, memory_mb: int = 512) -> SparseProduct:
    """S = sum of w_m S_m over views m; S_m holds 1/k from an item to each of its k nearest items (the
    unweighted directed graph after degree normalisation, since all degrees are k).

    Where an item lacks views, the weights of those it has are scaled to sum to 1; an item without any has an
    empty row.
    """
    shares = view_weights(views, image_weight)
    neighbours = {name: nearest_items(view, k, memory_mb=memory_mb)[0] for name, view in views.items()}
    held = [shares[name] * (found[:, 0] >= 0) for name, found in neighbours.items()]
    total = torch.stack(held).sum(dim=0)  # (n_items,)
    entries = []
    for name, found in neighbours.items():
        rows, slots = (found >= 0).nonzero(as_tuple=True)
        degree = (found >= 0).sum(dim=1)
        weights = shares[name] / (degree[rows] * total[rows].clamp(min=1e-12))
        entries.append((rows, found[rows, slots], weights))
    rows, columns, weights = (torch.cat(parts) for parts in zip(*entries, strict=True))
    return SparseProduct(rows, columns, weights, (len(total), len(total)))
