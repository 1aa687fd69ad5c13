"""LATTICE's item graph: cosine neighbours in the raw features and in a learned projection of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cosine_graph import cosine_edges, scale_by_degrees
from ..edges import EdgePattern
from ..knn import nearest_items
from ..modalities import Modalities, Modality
from .embeddings import Projection

Edges = tuple[Tensor, Tensor, Tensor]  # rows, columns and values, each (e,)


class LearnedGraph(nn.Module):
    """sum over views m of w_m [share * So_m + (1 - share) * Sl_m], (n_items, n_items), with S the scaled
    graphs of the k nearest neighbours in raw features (o) and in projected ones (l).

    w is a learned softmax over the views that an item has. Neighbours are searched exactly, in blocks;
    gradients pass through the similarities of the kept edges, so nothing is ever as large as items x items.
    `scale_mixture` scales sum w_m Sl_m by its own degrees instead of each Sl_m; `clip` sets negative
    similarities to 0.
    """

    original_rows: Tensor  # (e,) the edges of all So_m
    original_columns: Tensor
    original_values: Tensor  # scaled
    original_views: Tensor  # number of the view that an edge is of
    held: Tensor  # (n_items, n_views) bool: has the item this view? True throughout for items without any

    def __init__(
        self,
        views: Modalities,
        dim: int,
        k: int,
        original_share: float,
        clip: bool = True,
        scale_mixture: bool = False,
        train_features: bool = False,
        memory_mb: int = 512,
    ) -> None:
        super().__init__()
        self.k, self.share, self.clip, self.memory_mb = k, original_share, clip, memory_mb
        self.scale_mixture = scale_mixture
        self.projections = nn.ModuleList(
            Projection(modality, dim, bias=True, train_features=train_features) for modality in views.values()
        )
        found = [cosine_edges(view, k, clip, memory_mb) for view in views.values()]
        n_items = self.n_items = len(next(iter(views.values())).values)
        columns = {
            "original_rows": [rows for rows, _, _ in found],
            "original_columns": [columns for _, columns, _ in found],
            "original_values": [scale_by_degrees(*edges, n_items) for edges in found],
            "original_views": [torch.full_like(rows, number) for number, (rows, _, _) in enumerate(found)],
        }
        for name, parts in columns.items():
            self.register_buffer(name, torch.cat(parts), persistent=False)
        held = torch.zeros(n_items, len(found), dtype=torch.bool, device=self.original_rows.device)
        held[self.original_rows, self.original_views] = True
        self.register_buffer("held", held | ~held.any(dim=1, keepdim=True), persistent=False)
        self.view_weight = nn.Parameter(torch.zeros(len(found), device=held.device))

    def forward(self) -> tuple[EdgePattern, Tensor]:
        """The graph by the current parameters: its places, and its values with their gradient."""
        weights = self.view_weight.expand_as(self.held).masked_fill(~self.held, -torch.inf).softmax(dim=1)
        rows, columns, learned = self._learned(weights)
        original = self.original_values * weights[self.original_rows, self.original_views]
        values = torch.cat([self.share * original, (1 - self.share) * learned])
        rows, columns = torch.cat([self.original_rows, rows]), torch.cat([self.original_columns, columns])
        return EdgePattern(rows, columns, (self.n_items, self.n_items)), values

    def _learned(self, weights: Tensor) -> Edges:
        """sum over views of w_m Sl_m; an edge that several views have occurs several times."""
        parts = []
        for number, projection in enumerate(self.projections):
            assert isinstance(projection, Projection)
            rows, columns, values = self._projected(projection)
            if not self.scale_mixture:
                values = scale_by_degrees(rows, columns, values, self.n_items)
            parts.append((rows, columns, values * weights[rows, number]))
        rows, columns, values = (torch.cat(part) for part in zip(*parts, strict=True))
        if self.scale_mixture:
            values = scale_by_degrees(rows, columns, values, self.n_items)
        return rows, columns, values

    def _projected(self, projection: Projection) -> Edges:
        """Nearest neighbours in the projected features of one view, with differentiable cosines."""
        unit = F.normalize(projection.table(), dim=1)  # (n_items, dim), zero where absent
        neighbours, _ = nearest_items(
            Modality(unit.detach().float(), projection.present), self.k, memory_mb=self.memory_mb
        )
        rows, slots = (neighbours >= 0).nonzero(as_tuple=True)
        columns = neighbours[rows, slots]
        cosines = EdgePattern(rows, columns, (self.n_items, self.n_items)).dots(unit, unit)
        return rows, columns, cosines.clamp(min=0) if self.clip else cosines
