"""The rows of a batch, each once: what is computed per row need not be computed per triple."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Distinct(NamedTuple):
    rows: Tensor  # (m,) int64, m <= b
    slots: Tensor  # (b,) int64: batch row j is row `rows[slots[j]]`
    counts: Tensor  # (m,) float32: how often each occurs; sums to b


def distinct(idx: Tensor) -> Distinct:
    """`idx` (b,) without repetitions; on a GPU as it is, since steps of one shape count for more there."""
    if idx.device.type != "cpu":
        return Distinct(idx, all_rows(len(idx), idx), torch.ones_like(idx, dtype=torch.float32))
    rows, slots, counts = torch.unique(idx, return_inverse=True, return_counts=True)
    return Distinct(rows, slots, counts.float())


def all_rows(n: int, like: Tensor) -> Tensor:
    """0..n-1 on the device of `like`."""
    return torch.arange(n, device=like.device)
