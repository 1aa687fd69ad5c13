"""Longer texts for a CLIP: the knowledge-preserving stretch of its text positions (Long-CLIP, ECCV 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .text_tower import is_causal

KEPT_POSITIONS = 20  # CLIP has seen enough texts of up to 20 tokens to have learnt these well


def stretch_positions(positions: Tensor, length: int) -> Tensor:
    """Position embeddings (n, width) stretched to (length, width).

    The first 20 rows stay; between the others, whole steps are divided by the smallest number that reaches
    `length`, interpolated linearly, and the last step goes on with the last difference: 77 rows become
    20 + 4 * 57 = 248. Raises ValueError where fewer than two rows can be stretched.
    """
    n_stretched = len(positions) - KEPT_POSITIONS
    if n_stretched < 2:
        raise ValueError(f"{len(positions)} positions; at least {KEPT_POSITIONS + 2} are needed")
    factor = -(-(length - KEPT_POSITIONS) // n_stretched)  # rounded up
    tail = positions[KEPT_POSITIONS:].double()  # (m, width)
    steps = torch.cat([tail.diff(dim=0), tail[-1:] - tail[-2:-1]])  # (m, width), from each row to the next
    shares = torch.arange(factor, dtype=torch.float64, device=positions.device) / factor
    stretched = tail[:, None] + shares[None, :, None] * steps[:, None]  # (m, factor, width)
    rows = torch.cat([positions[:KEPT_POSITIONS], stretched.flatten(0, 1).to(positions.dtype)])
    return rows[:length]


def stretch_context(model: nn.Module, length: int) -> None:
    """Let the causal text tower of an open_clip model take `length` tokens, in place.

    Raises InputError for a tower that is not CLIP's, whose context is longer, or too short to be stretched.
    """
    tower: Any = getattr(model, "text", model)
    if not is_causal(model):
        raise InputError(
            "context_length: this encoder's text tower is not CLIP's causal one; leave the key out"
        )
    own = len(tower.positional_embedding)
    if length < own:
        raise InputError(f"context_length is {length}, but the encoder takes {own} tokens; leave the key out")
    if length == own:
        return
    try:
        positions = stretch_positions(tower.positional_embedding.data, length)
    except ValueError as error:
        raise InputError(f"context_length: this encoder cannot be stretched ({error})") from error
    tower.positional_embedding = nn.Parameter(positions, requires_grad=False)
    tower.attn_mask = torch.full((length, length), -torch.inf).triu(1)
    tower.context_length = length
