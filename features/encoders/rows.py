"""Rows of vectors as encoders give them: exact enough, and of unit length where that is asked for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(vectors: Tensor) -> Tensor:
    """The vectors in float32, or in float64 where they are so."""
    return vectors if vectors.dtype == torch.float64 else vectors.float()


def unit_rows(vectors: Tensor) -> Tensor:
    """The vectors (n, dim) at unit length, in float32 at least."""
    return F.normalize(at_least_float32(vectors), dim=-1)
