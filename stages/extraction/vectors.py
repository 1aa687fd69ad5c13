"""The vectors of one shard's items: texts in sorted batches, pictures in batches as they are decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import polars as pl

from ...features.config import ExtractConfig
from ...features.encoders.base import ImageEncoder, TextEncoder
from ...features.shards import Failure
from ...features.text import count_texts, encode_texts
from ..encoding import Rendered
from ..joint import Columns
from .batches import FittingBatches

NOT_FINITE = "not_finite"  # the reason of a vector that is no vector


def encode_text_views(
    encoder: TextEncoder, rendered: Rendered, rows: Sequence[int], config: ExtractConfig, columns: Columns
) -> dict[str, int]:
    """Fill the `text.*` columns of `rows`; returns how many texts the shard has, how many are long or cut.

    Texts that repeat, within a view or across views, are encoded once.
    """
    texts, prompts = texts_of(rendered, rows)
    encoded = encode_texts(encoder, texts, config.long_text, config.batch_size, prompts, config.normalise)
    for position, name in enumerate(rendered.texts):
        part = slice(position * len(rows), (position + 1) * len(rows))
        values, present = columns[f"text.{name}"]
        values[rows], present[rows] = encoded.vectors[part], encoded.present[part]
    reused = sorted(set(range(len(rendered.items))).difference(rows))
    others, their_prompts = texts_of(rendered, reused)
    counts = Counter(encoded.counts)
    counts.update(count_texts(encoder, others, config.long_text, their_prompts))
    return dict(counts)


def texts_of(rendered: Rendered, rows: Sequence[int]) -> tuple[list[str | None], list[str]]:
    """The texts of `rows`, view after view, and the prompt of each."""
    texts = [of_view[row] for of_view in rendered.texts.values() for row in rows]
    return texts, [rendered.prompts[name] for name in rendered.texts for _ in rows]


class ImageRows:
    """Fills the `image.*` columns of a shard row by row, as its pictures are decoded, with means over images
    and boxes of unit length, or plain means if `config.normalise` is off.
    """

    def __init__(
        self, encoder: ImageEncoder, config: ExtractConfig, columns: Columns, batches: FittingBatches
    ) -> None:
        self._encoder, self._config, self._columns, self._batches = encoder, config, columns, batches
        self._waiting: list[tuple[str, int, np.ndarray]] = []  # view, row, pixels
        self._n_crops: Counter[tuple[str, int]] = Counter()

    def add(self, row: int, pixels: dict[str, list[np.ndarray]]) -> None:
        """Take the crops of one item, by view."""
        self._waiting += [(view, row, crop) for view, crops in pixels.items() for crop in crops]
        self._n_crops.update({(view, row): len(crops) for view, crops in pixels.items() if crops})
        while len(self._waiting) >= self._config.batch_size:
            self._encode(self._config.batch_size)

    def finish(self) -> None:
        """Encode what is left and turn the sums into means."""
        self._encode(len(self._waiting))
        for view in (f"image.{name}" for name in self._config.image_views):
            values, _ = self._columns[view]
            rows = [row for of_view, row in self._n_crops if of_view == view]
            if self._config.normalise:
                norms = np.linalg.norm(values[rows], axis=1, keepdims=True)
                values[rows] /= norms.clip(min=np.finfo(np.float32).tiny)
            else:
                values[rows] /= np.array([self._n_crops[view, row] for row in rows], np.float32)[:, None]

    def _encode(self, count: int) -> None:
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        if not batch:
            return
        vectors = self._batches.encode(self._encoder.encode_images, [pixels for _, _, pixels in batch])
        for (view, row, _), vector in zip(batch, vectors, strict=True):
            values, present = self._columns[view]
            values[row] += vector
            present[row] = True


def drop_not_finite(item_ids: pl.Series, rows: Sequence[int], columns: Columns) -> list[Failure]:
    """Make vectors that are not finite absent, and say so: they would spoil every average they enter."""
    failures = []
    for view, (values, present) in columns.items():
        for row in rows:
            if present[row] and not np.isfinite(values[row]).all():
                values[row], present[row] = 0, False
                failures.append(
                    Failure(item_ids[row], view, NOT_FINITE, "the encoder returned NaN or infinity")
                )
    return failures
