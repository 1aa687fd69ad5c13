"""Two views of the same items, set against each other: a loss that keeps them aligned, and a measure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .unit_rows import unit_rows


def view_contrast(first: Tensor, second: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Mean InfoNCE of cosines / temperature, both ways, of rows (b, d) of the same items; 0 for fewer than 2.

    `same` (b, b) is True for two items that one of the views cannot tell apart: they are no negatives of each
    other.
    """
    own = torch.arange(len(first), device=first.device)
    if len(own) < 2:
        return first.new_zeros(())
    logits = unit_rows(first) @ unit_rows(second).T / temperature
    logits = logits.masked_fill(same & (own != own.unsqueeze(1)), -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def recall_at_1(first: Tensor, second: Tensor, same: Tensor) -> float:
    """Share of rows (b, d) whose nearest row of the other view is the item's own, or one it is the `same` as;
    mean of both ways."""
    cosines = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T  # (b, b)
    found = [same.gather(1, scores.argmax(dim=1, keepdim=True)) for scores in (cosines, cosines.T)]
    return float(torch.cat(found).float().mean())
