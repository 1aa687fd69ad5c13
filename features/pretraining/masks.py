"""What is hidden from the encoder: blocks of patches, tokens of a text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEAST_BLOCK = 16 / 196  # share of the patches that the smallest block has (BEiT, ICLR 2022, algorithm 1)
LEAST_ASPECT = 0.3  # height over width of a block, and its inverse


def hide_patches(rng: np.random.Generator, n: int, grid: int, ratio: float) -> np.ndarray:
    """Masks (n, grid^2) bool of grid x grid patches, row by row, True on hidden ones.

    The hidden patches lie in blocks of random place, size and shape (BEiT). Every mask hides the same
    number, round(ratio grid^2), but at least one and not all.
    """
    wanted = min(max(round(ratio * grid**2), 1), grid**2 - 1)
    return np.stack([_blocks(rng, grid, wanted) for _ in range(n)]) if n else np.zeros((0, grid**2), bool)


def _blocks(rng: np.random.Generator, grid: int, wanted: int) -> np.ndarray:
    hidden = np.zeros((grid, grid), dtype=bool)
    missing = wanted
    while missing > 0:
        least = min(max(1.0, LEAST_BLOCK * grid**2), missing)
        area = rng.uniform(least, missing)
        aspect = math.exp(rng.uniform(math.log(LEAST_ASPECT), -math.log(LEAST_ASPECT)))
        height, width = (min(max(round(math.sqrt(area * side)), 1), grid) for side in (aspect, 1 / aspect))
        top, left = (int(rng.integers(grid - side + 1)) for side in (height, width))
        block = hidden[top : top + height, left : left + width]
        fresh = np.flatnonzero(~block)
        if len(fresh) > missing:  # a random part of the last block, so that all masks hide equally many
            fresh = rng.choice(fresh, missing, replace=False)
        block[np.unravel_index(fresh, block.shape)] = True
        missing -= len(fresh)
    return hidden.reshape(-1)


def hide_tokens(
    rng: np.random.Generator, lengths: Sequence[int], ratios: Sequence[float]
) -> list[np.ndarray]:
    """For each text of so many tokens, the ascending places of hidden ones: round(ratio length), at least
    one; none of an empty text."""
    hidden = []
    for length, ratio in zip(lengths, ratios, strict=True):
        wanted = min(max(round(ratio * length), 1), length)
        hidden.append(np.sort(rng.choice(length, wanted, replace=False)) if wanted else np.empty(0, np.int64))
    return hidden
