"""Texts to vectors: every distinct text once, long ones in windows of the encoder's context, pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .config import LongText
from .encoders.base import TextEncoder

RELEASED_CHARACTERS = 230  # CLIPER's release cuts texts that do not fit the context by characters


@dataclass(frozen=True, slots=True)
class TextVectors:
    """One row per text; rows of absent texts are zero and marked in `present`."""

    vectors: np.ndarray  # (n, dim) float32
    present: np.ndarray  # (n,) bool
    counts: dict[str, int]  # texts, texts_windowed (longer than one window), texts_truncated, tokens_dropped


@dataclass(frozen=True, slots=True)
class TextWindows:
    """One text as an encoder takes it."""

    ids: list[list[int]]  # at least one window, which may be empty
    sizes: list[int]  # tokens of each window, a repeated prompt not counted
    dropped: int  # tokens that no window holds


def encode_texts(
    encoder: TextEncoder,
    texts: Sequence[str | None],
    pooling: LongText = "mean",
    batch_size: int = 256,
    prompts: Sequence[str] | None = None,
    normalise: bool = True,
) -> TextVectors:
    """Encode texts; None stays absent.

    A text longer than one window is cut into windows of `encoder.content_length` tokens. Each window after
    the first begins with the text's prompt, one per text in `prompts`, so that it says by itself what it is
    about. "mean" averages the windows' vectors and "length-weighted" weighs each by its tokens; both are
    scaled to unit length if `normalise`. "sum" adds them up, so that long texts get long vectors.
    "as-released" does that with pieces of 230 characters, as CLIPER's release. "truncate" keeps the first
    window and counts what it drops. The order of the texts changes nothing.
    """
    keys = _keys(texts, prompts)
    rows_of = {key: row for row, key in enumerate(dict.fromkeys(key for key in keys if key is not None))}
    windows = [cut_text(encoder, text, prompt, pooling) for text, prompt in rows_of]
    distinct = _pool(_encode_sorted(encoder, windows, batch_size), windows, pooling, normalise)

    row_idx = np.array([-1 if key is None else rows_of[key] for key in keys], dtype=np.int64)  # (n,)
    present = row_idx >= 0
    vectors = np.zeros((len(texts), encoder.dim), dtype=np.float32)
    vectors[present] = distinct[row_idx[present]]
    return TextVectors(vectors, present, _count([windows[row] for row in row_idx[present]]))


def count_texts(
    encoder: TextEncoder, texts: Sequence[str | None], pooling: LongText, prompts: Sequence[str] | None = None
) -> dict[str, int]:
    """The `counts` that `encode_texts` gives, without encoding anything."""
    keys = [key for key in _keys(texts, prompts) if key is not None]
    windows = {key: cut_text(encoder, *key, pooling) for key in set(keys)}
    return _count([windows[key] for key in keys])


def _keys(texts: Sequence[str | None], prompts: Sequence[str] | None) -> list[tuple[str, str] | None]:
    """What decides on a text's vector: itself and its prompt."""
    of_each = prompts if prompts is not None else [""] * len(texts)
    return [None if text is None else (text, prompt) for text, prompt in zip(texts, of_each, strict=True)]


def _count(windows: Sequence[TextWindows]) -> dict[str, int]:
    return {
        "texts": len(windows),
        "texts_windowed": sum(len(of_text.ids) > 1 and not of_text.dropped for of_text in windows),
        "texts_truncated": sum(of_text.dropped > 0 for of_text in windows),
        "tokens_dropped": sum(of_text.dropped for of_text in windows),
    }


def cut_text(encoder: TextEncoder, text: str, prompt: str, pooling: LongText) -> TextWindows:
    """The windows of one text; one empty window for a text without tokens."""
    ids, length = encoder.tokenize(text), encoder.content_length
    if len(ids) <= length:
        return TextWindows([ids], [len(ids)], 0)
    if pooling == "truncate":
        return TextWindows([ids[:length]], [length], len(ids) - length)
    if pooling == "as-released":
        return _cut_by_characters(encoder, text, prompt)
    repeated = encoder.tokenize(prompt.strip()) if prompt else []
    if ids[: len(repeated)] != repeated or len(repeated) > length // 2:
        repeated = []  # its tokens are not the text's own, or would leave the text too little room
    step = length - len(repeated)
    content = ids[len(repeated) :]
    parts = [content[start : start + step] for start in range(0, len(content), step)]
    return TextWindows([repeated + part for part in parts], [len(part) for part in parts], 0)


def _cut_by_characters(encoder: TextEncoder, text: str, prompt: str) -> TextWindows:
    """CLIPER's pieces: the last may be the bare prompt, and a piece past the context is cut."""
    starts = range(RELEASED_CHARACTERS, len(text) + 1, RELEASED_CHARACTERS)
    pieces = [text[:RELEASED_CHARACTERS]]
    pieces += [prompt + text[start : start + RELEASED_CHARACTERS] for start in starts]
    tokens = [encoder.tokenize(piece) for piece in pieces]
    windows = [ids[: encoder.content_length] for ids in tokens]
    dropped = sum(map(len, tokens)) - sum(map(len, windows))
    return TextWindows(windows, [len(ids) for ids in windows], dropped)


def _encode_sorted(encoder: TextEncoder, windows: list[TextWindows], batch_size: int) -> np.ndarray:
    """Vectors of all windows in their order, (windows, dim); batches are of like length, to pad least."""
    flat = [window for of_text in windows for window in of_text.ids]
    order = sorted(range(len(flat)), key=lambda n: (len(flat[n]), flat[n]))
    vectors = np.empty((len(flat), encoder.dim), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        vectors[batch] = encoder.encode_tokens([flat[n] for n in batch])
    return vectors


def _pool(vectors: np.ndarray, windows: list[TextWindows], pooling: LongText, normalise: bool) -> np.ndarray:
    """One row per text, (texts, dim), from the rows of its windows; a single window's row stays as it is."""
    pooled = np.empty((len(windows), vectors.shape[1]), dtype=np.float32)
    first = 0
    for row, of_text in enumerate(windows):
        rows = vectors[first : first + len(of_text.ids)]  # (windows of this text, dim)
        first += len(rows)
        if len(rows) == 1:
            pooled[row] = rows[0]
        elif pooling in ("sum", "as-released"):
            pooled[row] = rows.sum(axis=0)
        else:
            average = np.average(
                rows, axis=0, weights=of_text.sizes if pooling == "length-weighted" else None
            )
            pooled[row] = _unit(average) if normalise else average
    return pooled


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), np.finfo(np.float32).tiny)
