"""LATTICE's item graph: cosine neighbours in the raw features and in a learned projection of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cosine_graph import cosine_edges, scale_by_degrees
from ..edges import EdgePattern
from ..knn import nearest_items
from ..modalities import Modalities, Modality
from .embeddings import Projection


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Where a `LearnedGraph` has entries."""

    learned: Sequence[EdgePattern]  # of Sl_m, by view
    whole: EdgePattern  # of all So_m, then of all Sl_m


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

    @torch.no_grad()
    def neighbours(self) -> Neighbours:
        """The nearest items by the current parameters."""
        learned = [self._nearest(projection) for projection in self._projections()]
        rows = torch.cat([self.original_rows, *(pattern.rows for pattern in learned)])
        columns = torch.cat([self.original_columns, *(pattern.columns for pattern in learned)])
        return Neighbours(learned, EdgePattern(rows, columns, (self.n_items, self.n_items)))

    def forward(self, neighbours: Neighbours | None = None) -> tuple[EdgePattern, Tensor]:
        """The graph by the current parameters: its places, and its values with their gradient. The places
        are those of `neighbours`, by default of those that are nearest now."""
        found = neighbours or self.neighbours()
        weights = self.view_weight.expand_as(self.held).masked_fill(~self.held, -torch.inf).softmax(dim=1)
        learned = self._learned(weights, found.learned)
        original = self.original_values * weights[self.original_rows, self.original_views]
        return found.whole, torch.cat([self.share * original, (1 - self.share) * learned])

    def _learned(self, weights: Tensor, patterns: Sequence[EdgePattern]) -> Tensor:
        """Values of sum over views of w_m Sl_m; an edge that several views have occurs several times."""
        parts = []
        for number, (projection, pattern) in enumerate(zip(self._projections(), patterns, strict=True)):
            unit = F.normalize(projection.table(), dim=1)  # (n_items, dim), zero where absent
            cosines = pattern.dots(unit, unit)
            values = cosines.clamp(min=0) if self.clip else cosines
            if not self.scale_mixture:
                values = scale_by_degrees(pattern.rows, pattern.columns, values, self.n_items)
            parts.append(values * weights[pattern.rows, number])
        values = torch.cat(parts)
        if self.scale_mixture:
            rows, columns = (
                torch.cat(ends) for ends in zip(*((p.rows, p.columns) for p in patterns), strict=True)
            )
            values = scale_by_degrees(rows, columns, values, self.n_items)
        return values

    def _projections(self) -> Iterator[Projection]:
        for projection in self.projections:
            assert isinstance(projection, Projection)
            yield projection

    def _nearest(self, projection: Projection) -> EdgePattern:
        """Nearest neighbours in the projected features of one view."""
        unit = F.normalize(projection.table(), dim=1).float()
        view = Modality(unit, projection.present)
        neighbours, _ = nearest_items(view, self.k, memory_mb=self.memory_mb)
        rows, slots = (neighbours >= 0).nonzero(as_tuple=True)
        return EdgePattern(rows, neighbours[rows, slots], (self.n_items, self.n_items))
