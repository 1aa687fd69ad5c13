"""Item graphs weighted by cosine: every item's k nearest, scaled by the degrees of both ends."""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import SparseProduct
from .knn import nearest_items
from .modalities import Modality


def cosine_edges(
    modality: Modality, k: int, clip: bool = True, memory_mb: int = 512
) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, columns, cosines), each (e,), e <= n_items * k: from an item to its k nearest, itself included.

    With `clip`, negative cosines are 0, as affinities must not be negative (LATTICE, section 3.1.1).
    """
    neighbours, cosines = nearest_items(modality, k, memory_mb=memory_mb)
    rows, slots = (neighbours >= 0).nonzero(as_tuple=True)
    values = cosines[rows, slots]
    return rows, neighbours[rows, slots], values.clamp(min=0) if clip else values


def scale_by_degrees(rows: Tensor, columns: Tensor, values: Tensor, n_items: int) -> Tensor:
    """Values of D^-1/2 S D^-1/2, (e,), D the row sums of S; differentiable. An item whose row does not sum
    to more than 0 has no edges."""
    degree = values.new_zeros(n_items).index_add(0, rows, values)
    scale = torch.where(degree > 0, degree, torch.inf).rsqrt()
    return values * scale[rows] * scale[columns]


def cosine_graph(modality: Modality, k: int, clip: bool = True, memory_mb: int = 512) -> SparseProduct:
    """The scaled graph of one view as a fixed matrix (n_items, n_items); items without the view have no
    edges."""
    rows, columns, values = cosine_edges(modality, k, clip, memory_mb)
    n_items = len(modality.values)
    return SparseProduct(rows, columns, scale_by_degrees(rows, columns, values, n_items), (n_items, n_items))
