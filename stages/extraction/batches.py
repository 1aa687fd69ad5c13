"""Batches that fit into the memory of the GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...features.encoders.base import TextEncoder
from ...features.errors import InputError

log = logging.getLogger(__name__)


class FittingBatches:
    """Calls an encoder with batches of `size`; one that does not fit into memory halves them for good.

    `of` says what they are batches of: "images", "texts".
    """

    def __init__(self, of: str, size: int) -> None:
        self._of, self.size = of, size

    def encode(self, encode: Callable[..., np.ndarray], *inputs: Sequence[Any]) -> np.ndarray:
        """The rows that `encode` gives for equally long inputs, (n, dim), however many calls that takes.

        Raises InputError where even one does not fit.
        """
        rows, start = [], 0
        while start < len(inputs[0]):
            batch = [column[start : start + self.size] for column in inputs]
            vectors = self._attempt(encode, batch)
            if vectors is None:
                self._halve(len(batch[0]))
            else:
                rows.append(vectors)
                start += len(batch[0])
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def _attempt(self, encode: Callable[..., np.ndarray], batch: list[Sequence[Any]]) -> np.ndarray | None:
        from torch import OutOfMemoryError  # an encoder has loaded torch before

        try:
            return encode(*batch)
        except OutOfMemoryError as error:
            if len(batch[0]) == 1:
                raise InputError(
                    f"one of the {self._of} does not fit into the GPU's memory beside the model "
                    f"({str(error).splitlines()[0]}); end other jobs on this GPU, or take "
                    'precision = "bf16", a shorter context_length or device = "cpu" in [extract]'
                ) from error
        return None  # out here, where the error no longer holds what is to be freed

    def _halve(self, found: int) -> None:
        from torch import cuda

        self.size = max(found // 2, 1)
        cuda.empty_cache()
        log.warning(
            "%d %s at once do not fit into the GPU's memory: going on with %d (extract.batch_size)",
            found,
            self._of,
            self.size,
        )


class FittingTexts:
    """A text encoder whose windows go to it in batches that fit."""

    def __init__(self, encoder: TextEncoder, batches: FittingBatches) -> None:
        self._encoder, self._batches = encoder, batches
        self.dim = encoder.dim
        self.context_length, self.content_length = encoder.context_length, encoder.content_length

    @property
    def identity(self) -> dict[str, Any]:
        return self._encoder.identity

    def tokenize(self, text: str) -> list[int]:
        return self._encoder.tokenize(text)

    def encode_tokens(self, windows: Sequence[Sequence[int]]) -> np.ndarray:
        return self._batches.encode(self._encoder.encode_tokens, windows)
