"""Joint views: each item's pictures and one text through the encoder in a single pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..features.config import JOINT_VIEWS, ExtractConfig
from ..features.encoders.base import JointEncoder
from .extraction.batches import FittingBatches

Columns = Mapping[str, tuple[np.ndarray, np.ndarray]]  # view -> ((n, dim) float32, present (n,) bool)


class _Input(NamedTuple):
    """One pass to be made, and the view and row whose mean it enters."""

    view: str
    row: int
    pixels: np.ndarray | None  # None: the encoder's blank
    window: list[int] | None


class JointRows:
    """Fills the joint views of a shard row by row, as its pictures are decoded.

    `joint` holds every item that has a picture or a text; what it lacks is the encoder's blank. With
    `joint_blanked`, `joint.image` is the picture with a blank text, and `joint.text` the text with a blank
    picture. Vectors are means over the item's pictures, of unit length unless `config.normalise` is off. A
    text longer than the context is cut: windows cannot each see the picture and stay one item.
    """

    def __init__(
        self,
        encoder: JointEncoder,
        texts: Sequence[str | None],
        config: ExtractConfig,
        columns: Columns,
        batches: FittingBatches,
    ) -> None:
        self._encoder, self._config, self._batches = encoder, config, batches
        self._columns = {view: columns[view] for view in JOINT_VIEWS if view in columns}
        ids = {text: encoder.tokenize(text) for text in set(texts) if text is not None}
        self._windows = [None if text is None else ids[text][: encoder.content_length] for text in texts]
        lengths = [len(ids[text]) for text in texts if text is not None]
        excess = [length - encoder.content_length for length in lengths if length > encoder.content_length]
        self.counts = {
            "joint_texts": len(lengths),
            "joint_texts_truncated": len(excess),
            "joint_tokens_dropped": sum(excess),
        }
        self._waiting: list[_Input] = []
        self._passes: dict[tuple[str, int], int] = {}

    def add(self, row: int, pictures: Sequence[np.ndarray]) -> None:
        """Take the preprocessed pictures of an item, if it has any, together with its text."""
        window = self._windows[row]
        both = pictures or ([None] if window is not None else [])
        wanted = [_Input("joint", row, pixels, window) for pixels in both]
        wanted += [_Input("joint.image", row, pixels, None) for pixels in pictures]
        if window is not None:
            wanted.append(_Input("joint.text", row, None, window))
        for made in wanted:
            if made.view in self._columns:
                self._waiting.append(made)
                self._passes[made.view, row] = self._passes.get((made.view, row), 0) + 1
        while len(self._waiting) >= self._config.batch_size:
            self._encode(self._config.batch_size)

    def finish(self) -> None:
        """Encode what is left and turn the sums into means."""
        self._encode(len(self._waiting))
        for (view, row), n_passes in self._passes.items():
            values, _ = self._columns[view]
            if self._config.normalise:
                values[row] /= max(float(np.linalg.norm(values[row])), np.finfo(np.float32).tiny)
            else:
                values[row] /= n_passes

    def _encode(self, count: int) -> None:
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        if not batch:
            return
        inputs = [made.pixels for made in batch], [made.window for made in batch]
        vectors = self._batches.encode(self._encoder.encode_joint, *inputs)
        for made, vector in zip(batch, vectors, strict=True):
            values, present = self._columns[made.view]
            values[made.row] += vector
            present[made.row] = True
