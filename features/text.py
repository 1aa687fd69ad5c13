"""Texts to vectors: every distinct text once, long ones in windows of the encoder's context, pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .encoders.base import Encoder

Pooling = Literal["mean", "length-weighted", "truncate"]


@dataclass(frozen=True, slots=True)
class TextVectors:
    """One unit row per text; rows of absent texts are zero and marked in `present`."""

    vectors: np.ndarray  # (n, dim) float32
    present: np.ndarray  # (n,) bool
    counts: dict[str, int]  # texts, texts_windowed (longer than one window), texts_truncated, tokens_dropped


def encode_texts(
    encoder: Encoder, texts: Sequence[str | None], pooling: Pooling = "mean", batch_size: int = 256
) -> TextVectors:
    """Encode texts; None stays absent.

    A text longer than one window is cut into windows of `encoder.content_length` tokens. "mean" averages
    their unit vectors, "length-weighted" weighs each by its tokens, both scaled back to unit length;
    "truncate" keeps the first window and counts what it drops. The order of the texts changes nothing.
    """
    rows_of: dict[str, int] = {}  # distinct text -> its row among the distinct ones
    for text in texts:
        if text is not None:
            rows_of.setdefault(text, len(rows_of))
    tokens = [encoder.tokenize(text) for text in rows_of]
    windows = [_windows(ids, encoder.content_length, pooling) for ids in tokens]
    distinct = _pool(_encode_sorted(encoder, windows, batch_size), windows, pooling)

    row_idx = np.array([-1 if text is None else rows_of[text] for text in texts], dtype=np.int64)  # (n,)
    present = row_idx >= 0
    vectors = np.zeros((len(texts), encoder.dim), dtype=np.float32)
    vectors[present] = distinct[row_idx[present]]

    lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)[row_idx[present]]  # one per present row
    return TextVectors(vectors, present, _count(lengths, encoder.content_length, pooling))


def count_texts(encoder: Encoder, texts: Sequence[str | None], pooling: Pooling) -> dict[str, int]:
    """The `counts` that `encode_texts` gives, without encoding anything."""
    present = [text for text in texts if text is not None]
    length_of = {text: len(encoder.tokenize(text)) for text in set(present)}
    lengths = np.array([length_of[text] for text in present], dtype=np.int64)
    return _count(lengths, encoder.content_length, pooling)


def _count(lengths: np.ndarray, window: int, pooling: Pooling) -> dict[str, int]:
    overflow = np.maximum(lengths - window, 0)
    dropped = overflow if pooling == "truncate" else np.zeros_like(overflow)
    return {
        "texts": len(lengths),
        "texts_windowed": int((overflow > 0).sum()) - int((dropped > 0).sum()),
        "texts_truncated": int((dropped > 0).sum()),
        "tokens_dropped": int(dropped.sum()),
    }


def _windows(ids: list[int], length: int, pooling: Pooling) -> list[list[int]]:
    """Consecutive windows that cover the tokens; one empty window for a text without tokens."""
    cut = ids[:length] if pooling == "truncate" else ids
    return [cut[start : start + length] for start in range(0, len(cut), length)] or [[]]


def _encode_sorted(encoder: Encoder, windows: list[list[list[int]]], batch_size: int) -> np.ndarray:
    """Vectors of all windows in their order, (windows, dim); batches are of like length, to pad least."""
    flat = [window for of_text in windows for window in of_text]
    order = sorted(range(len(flat)), key=lambda n: (len(flat[n]), flat[n]))
    vectors = np.empty((len(flat), encoder.dim), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        vectors[batch] = encoder.encode_tokens([flat[n] for n in batch])
    return vectors


def _pool(vectors: np.ndarray, windows: list[list[list[int]]], pooling: Pooling) -> np.ndarray:
    """One row per text, (texts, dim), from the rows of its windows; a single window's row stays as it is."""
    if all(len(of_text) == 1 for of_text in windows):
        return vectors
    pooled = np.empty((len(windows), vectors.shape[1]), dtype=np.float32)
    first = 0
    for row, of_text in enumerate(windows):
        rows = vectors[first : first + len(of_text)]  # (windows of this text, dim)
        first += len(of_text)
        weights = [len(window) for window in of_text] if pooling == "length-weighted" else None
        pooled[row] = _unit(np.average(rows, axis=0, weights=weights)) if len(of_text) > 1 else rows[0]
    return pooled


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), np.finfo(np.float32).tiny)
