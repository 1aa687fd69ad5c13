"""A contrastive batch larger than memory: the vectors first, their gradients, then the encoder in pieces.

Training with a recommender does the same through a feature bank, see `recsys.end_to_end`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

Encode = Callable[[np.ndarray], Tensor]  # rows of items (n,) -> their vectors (n, ...)


class GradientCache:
    """Vectors of `rows` by `encode`, of whose graph one piece is in memory at a time.

    Exact (Gao et al., RepL4NLP 2021): with G the gradient of a loss by the vectors, the gradient of
    sum(vectors G) by the parameters, G constant, is that of the loss. Dropout is drawn alike in both passes.
    """

    def __init__(self, encode: Encode, rows: np.ndarray, piece: int) -> None:
        self._encode = encode
        self._pieces = [rows[start : start + piece] for start in range(0, len(rows), piece)]
        self._states: list[list[Tensor]] = []

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """All vectors, without a graph; the first pass."""
        parts = []
        for rows in self._pieces:
            self._states.append(_random_state())
            parts.append(self._encode(rows))
        return torch.cat(parts)

    def surrogates(self, gradient: Tensor) -> Iterator[Tensor]:
        """sum(vectors G) of one piece after the other, each () and to be followed back before the next."""
        after = _random_state()
        start = 0
        for rows, state in zip(self._pieces, self._states, strict=True):
            _set_random_state(state)
            vectors = self._encode(rows)
            yield (vectors * gradient[start : start + len(rows)]).sum()
            start += len(rows)
        _set_random_state(after)


def _random_state() -> list[Tensor]:
    """Of torch's generators on the CPU and, where they are in use, on all CUDA devices."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *devices]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])
