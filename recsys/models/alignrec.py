"""AlignRec (Liu et al., CIKM 2024): content aligned with ids, users with items, beside the ranking loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ..cosine_graph import cosine_edges, scale_by_degrees
from ..graph import BipartiteGraph, SparseProduct, product, take_rows
from ..losses import bpr_loss, l2_loss
from ..modalities import Modalities, Modality
from .alignments import content_id_alignment, similarity_preservation, user_item_alignment
from .base import GradientModel, TrainingData
from .distinct import Distinct, distinct
from .embeddings import Projection, id_embedding, require_modalities
from .joint_view import joint_view


class AlignRec(GradientModel):
    """score(u, i) of h = c + content_weight * s, c the LightGCN embeddings and s the content side:

    items s = S^L (q * sigmoid(gate(f))), S the cosine graph of the initial features, users the sum of their
    items' s. Loss = BPR + uia_weight * UIA + cca_weight * (CCA of users + CCA of items) +
    similarity_weight * REG + reg_weight * L2; during the first `warmup_epochs` without BPR and UIA.

    The paper has one vector per item. With several views the gate reads them side by side, and S and REG are
    means over the views that an item has. Items without any, and users none of whose items has one, have
    s = 0 and are left out of CCA and REG.
    """

    rows_independent = False  # CCA and REG compare the rows of a batch

    class Options(BaseModel, frozen=True, extra="forbid"):
        n_layers: Annotated[int, Field(ge=0)] = 2  # of the user-item graph
        n_item_layers: Annotated[int, Field(ge=0)] = 1  # of the item graph, L
        k: Annotated[int, Field(ge=1)] = 10  # neighbours of an item in one view, itself included
        content_weight: Annotated[float, Field(ge=0)] = 1.0  # of the content side in the final vectors
        layer_norm: bool = False  # of the features, before the gate
        cca_weight: Annotated[float, Field(ge=0)] = 0.01  # alpha, of content with ids
        temperature: Annotated[float, Field(gt=0)] = 0.2  # tau, of CCA
        uia_weight: Annotated[float, Field(ge=0)] = 0.1  # of users with items
        similarity_weight: Annotated[float, Field(ge=0)] = 0.1  # beta, of REG
        reg_weight: Annotated[float, Field(ge=0)] = 1e-4  # lambda, of the squared final vectors
        reg_batch_size: Annotated[int, Field(ge=1)] | None = None  # divisor of L2; default: rows of the batch
        warmup_epochs: Annotated[int, Field(ge=0)] = 0  # at the start, without the terms of users and items
        train_features: bool = False  # fine-tune the features that the gate reads, as the released code does
        as_released: bool = False  # REG follows the trained features, negative similarities, random cold rows
        memory_mb: Annotated[int, Field(ge=1)] = 512  # budget of the neighbour search

    item_held: Tensor  # (n_items,) bool: has the item content?
    user_held: Tensor  # (n_users,) bool: has one of the user's items?
    user_scale: Tensor  # (n_users,): from degrees over all items to degrees over those with content
    epochs_begun: Tensor  # () int64

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        views = require_modalities("alignrec", data.modalities)
        self.user = id_embedding(data.user_degree, dim, zero_cold=not options.as_released)
        self.item = id_embedding(data.item_degree, dim, zero_cold=not options.as_released)
        self.content = Content(views, dim, options)
        self.targets = nn.ModuleList(Directions(view) for view in views.values())
        self.graph = BipartiteGraph(data.user_idx, data.item_idx, data.n_users, data.n_items)
        item_held = torch.stack([held(view) for view in views.values()]).any(dim=0)
        degrees = torch.zeros(data.n_users, device=data.device)
        degrees.index_add_(0, data.user_idx, item_held[data.item_idx].float())
        self.register_buffer("item_held", item_held, persistent=False)
        self.register_buffer("user_held", degrees > 0, persistent=False)
        scale = (data.user_degree / degrees.clamp(min=1)).sqrt()
        self.register_buffer("user_scale", scale, persistent=False)
        self.register_buffer("epochs_begun", torch.zeros((), dtype=torch.int64, device=data.device))
        self.warming_up = options.warmup_epochs > 0

    def start_epoch(self, generator: torch.Generator) -> None:
        self.epochs_begun += 1
        self.warming_up = int(self.epochs_begun) <= self.options.warmup_epochs

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        options, user, positive = self.options, distinct(users), distinct(positives)
        items = torch.cat([positive.rows, negatives])
        user_ids, item_ids, _, _ = self.graph.propagate_rows(
            self.user.weight, self.item.weight, options.n_layers, user.rows, items
        )
        content = self.content(self.item.weight)
        user_side, item_side = self._user_side(content, user.rows), F.embedding(items, content)
        chosen, others = self._fused(item_ids, item_side).split([len(positive.rows), len(negatives)])
        rows = (
            F.embedding(user.slots, self._fused(user_ids, user_side)),
            F.embedding(positive.slots, chosen),
            others,
        )
        parts = {
            "bpr": bpr_loss(*rows),
            "reg": l2_loss(*rows) * (len(users) / (options.reg_batch_size or len(users))),
        }
        total = options.reg_weight * parts["reg"]
        if options.uia_weight:
            parts["uia"] = user_item_alignment(rows[0], rows[1])
        if not self.warming_up:
            total = total + parts["bpr"] + options.uia_weight * parts.get("uia", 0)
        if options.cca_weight:
            n = len(chosen)
            parts["cca.user"] = self._cca(user_side, user_ids, user, self.user_held)
            parts["cca.item"] = self._cca(item_side[:n], item_ids[:n], positive, self.item_held)
            total = total + options.cca_weight * (parts["cca.user"] + parts["cca.item"])
        if options.similarity_weight:
            parts["similarity"] = self._similarity(item_side[: len(chosen)], positive)
            total = total + options.similarity_weight * parts["similarity"]
        return {"loss": total, **parts}

    def forward(self) -> tuple[Tensor, Tensor]:
        users, items = self.graph.propagate(self.user.weight, self.item.weight, self.options.n_layers)
        user_side, item_side = self.sides()
        return self._fused(users, user_side), self._fused(items, item_side)

    def sides(self) -> tuple[Tensor, Tensor]:
        """s of all users (n_users, dim) and items (n_items, dim)."""
        content = self.content(self.item.weight)
        users = product(self.graph.to_users, self.graph.to_items, content)
        return users * self.user_scale.unsqueeze(1), content

    def _fused(self, ids: Tensor, side: Tensor) -> Tensor:
        return torch.add(ids, side, alpha=self.options.content_weight)

    def _user_side(self, content: Tensor, rows: Tensor) -> Tensor:
        return product(*take_rows(self.graph.to_users, rows), content) * self.user_scale[rows].unsqueeze(1)

    def _cca(self, side: Tensor, ids: Tensor, nodes: Distinct, has_content: Tensor) -> Tensor:
        return content_id_alignment(side, ids, nodes, self.options.temperature, has_content[nodes.rows])

    def _similarity(self, side: Tensor, items: Distinct) -> Tensor:
        """REG, the mean over the views of the batch, by how many of its rows have them."""
        total, n = side.new_zeros(()), side.new_zeros(())
        for features, present in self._targets(items.rows):
            weights = items.counts * present
            share = weights.sum()
            total = total + share * similarity_preservation(side, features, weights)
            n = n + share
        return total / n.clamp(min=1)

    def _targets(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Per view, the features (m, d) that REG compares with, and whether there are any, (m,)."""
        trained = self.content.projection.features if self.options.train_features else None
        start = 0
        for view in self.targets:
            assert isinstance(view, Directions)
            stop = start + view.values.shape[1]
            if self.options.as_released and trained is not None:  # there, one memory holds both
                yield trained.detach()[rows, start:stop], view.held[rows]
            else:
                yield view.values[rows], view.held[rows]
            start = stop


def held(view: Modality) -> Tensor:
    """(n_items,) bool: the items whose vector has a direction."""
    return view.present & view.values.any(dim=1)


class Directions(nn.Module):
    """The initial features of one view, as REG reads them."""

    values: Tensor  # (n_items, d)
    held: Tensor  # (n_items,) bool

    def __init__(self, view: Modality) -> None:
        super().__init__()
        self.register_buffer("values", view.values, persistent=False)
        self.register_buffer("held", held(view), persistent=False)


class Content(nn.Module):
    """s of all items, (n_items, dim): what of the item embeddings q the content lets pass, smoothed over the
    item graph; zero for items without content."""

    def __init__(self, views: Modalities, dim: int, options: AlignRec.Options) -> None:
        super().__init__()
        joint, self.n_layers = joint_view(views), options.n_item_layers
        projection = NormalisedProjection if options.layer_norm else Projection
        self.projection = projection(joint, dim, bias=True, train_features=options.train_features)
        self.gate = nn.Linear(dim, dim, device=joint.values.device)
        self.graph = item_graph(views, options.k, not options.as_released, options.memory_mb)

    def forward(self, items: Tensor) -> Tensor:
        gated = items * torch.sigmoid(self.gate(self.projection.unmasked_table()))
        for _ in range(self.n_layers):
            gated = self.graph(gated)  # items without content have no edges
        return gated if self.n_layers else gated * self.projection.present.unsqueeze(1)


class NormalisedProjection(Projection):
    """A projection of features that a layer normalisation with gain and bias has scaled."""

    def __init__(self, modality: Modality, dim: int, bias: bool, train_features: bool = False) -> None:
        super().__init__(modality, dim, bias, train_features)
        self.norm = nn.LayerNorm(modality.dim, device=modality.values.device)

    def _features(self, rows: Tensor | None) -> Tensor:
        return self.norm(super()._features(rows).float())


def item_graph(views: Modalities, k: int, clip: bool, memory_mb: int) -> SparseProduct:
    """The cosine graphs of all views (`cosine_graph`), each row the mean over the views that the item has."""
    n_items = len(next(iter(views.values())).values)
    n_views = torch.stack([held(view) for view in views.values()]).sum(dim=0).clamp(min=1)
    entries = []
    for view in views.values():
        rows, columns, cosines = cosine_edges(view, k, clip, memory_mb)
        values = scale_by_degrees(rows, columns, cosines, n_items)
        entries.append((rows, columns, values / n_views[rows]))
    rows, columns, values = (torch.cat(parts) for parts in zip(*entries, strict=True))
    return SparseProduct(rows, columns, values, (n_items, n_items))
