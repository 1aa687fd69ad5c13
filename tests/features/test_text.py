"""Pooling, de-duplication and counts, worked out by hand with an encoder whose vectors are known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mmrec.features.decoding.transform import ImageTransform
from mmrec.features.text import RELEASED_CHARACTERS, count_texts, encode_texts

AXES = {"red": 0, "blue": 1}  # a window of "red"s points along the first axis, of "blue"s along the second


class AxisEncoder:
    """Windows of two words; a window's vector is the direction of its counts of words."""

    dim, context_length, content_length = 3, 4, 2
    transform = ImageTransform((1, 1))

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, ...]]] = []

    @property
    def identity(self) -> dict[str, Any]:
        return {"name": "axes"}

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        return np.empty((0, self.dim), dtype=np.float32)

    def tokenize(self, text: str) -> list[int]:
        return [AXES.get(word, 2) for word in text.split()]

    def encode_tokens(self, windows: Sequence[Sequence[int]]) -> np.ndarray:
        self.batches.append([tuple(window) for window in windows])
        counts = np.array([np.bincount(window, minlength=3) for window in windows], dtype=np.float32)
        counts[counts.sum(axis=1) == 0, 2] = 1  # a window without words
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_each_distinct_text_is_encoded_once_and_absent_ones_are_masked() -> None:
    encoder = AxisEncoder()
    result = encode_texts(encoder, ["red", None, "blue", "red", ""])

    assert encoder.batches == [[(), (0,), (1,)]]
    assert result.present.tolist() == [True, False, True, True, True]
    assert result.vectors.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert result.counts == {"texts": 4, "texts_windowed": 0, "texts_truncated": 0, "tokens_dropped": 0}


@pytest.mark.parametrize(
    ("pooling", "direction", "dropped"),
    [
        ("mean", (1, 1, 0), 0),  # windows "red red" and "blue" weigh the same
        ("length-weighted", (2, 1, 0), 0),
        ("sum", (1, 1, 0), 0),
        ("truncate", (1, 0, 0), 1),
    ],
)
def test_a_long_text_is_pooled_over_its_windows(
    pooling: Any, direction: tuple[int, int, int], dropped: int
) -> None:
    result = encode_texts(AxisEncoder(), ["red red blue", "blue", "red red blue"], pooling)

    expected = np.array(direction) / (1 if pooling == "sum" else np.linalg.norm(direction))
    np.testing.assert_allclose(result.vectors[0], expected, atol=1e-6)
    assert result.vectors[1].tolist() == [0, 1, 0]
    assert result.counts == {
        "texts": 3,
        "texts_windowed": 0 if dropped else 2,
        "texts_truncated": 2 * dropped,
        "tokens_dropped": 2 * dropped,
    }


def test_windows_are_batched_by_length_and_come_back_in_order() -> None:
    encoder = AxisEncoder()
    texts = ["red blue", "red", "blue red blue", "blue"]
    small_batches = encode_texts(encoder, texts, batch_size=2)

    lengths = [[len(window) for window in batch] for batch in encoder.batches]
    assert lengths == [[1, 1], [1, 2], [2]]
    np.testing.assert_array_equal(small_batches.vectors, encode_texts(AxisEncoder(), texts).vectors)
    reordered = encode_texts(AxisEncoder(), texts[::-1]).vectors
    np.testing.assert_array_equal(reordered, small_batches.vectors[::-1])


def test_no_text_at_all() -> None:
    result = encode_texts(AxisEncoder(), [None, None])
    assert not result.present.any()
    assert result.vectors.shape == (2, 3)
    assert result.counts["texts"] == 0


def test_every_window_begins_with_the_prompt_of_its_text() -> None:
    encoder = AxisEncoder()
    encoder.content_length = 4
    texts = ["is red red red blue blue", "is red red red blue blue", "is red"]

    result = encode_texts(encoder, texts, "length-weighted", prompts=["is ", "", "is "])

    windows = {window for batch in encoder.batches for window in batch}
    assert windows == {(2, 0, 0, 0), (2, 1, 1), (1, 1), (2, 0)}
    first, second = np.array([3, 0, 1]) / 10**0.5, np.array([0, 2, 1]) / 5**0.5
    expected = 3 * first + 2 * second  # the prompt's own token has no weight
    np.testing.assert_allclose(result.vectors[0], expected / np.linalg.norm(expected), atol=1e-6)
    assert result.counts["texts_windowed"] == 2 and result.counts["tokens_dropped"] == 0


@pytest.mark.parametrize("prompt", ["blue ", "red red red "])
def test_a_prompt_that_does_not_begin_the_text_or_fills_the_window_is_not_repeated(prompt: str) -> None:
    encoder = AxisEncoder()
    encoder.content_length = 4
    encode_texts(encoder, ["red red red red blue"], prompts=[prompt])
    assert encoder.batches == [[(1,), (0, 0, 0, 0)]]


def test_without_normalising_a_mean_keeps_its_length() -> None:
    result = encode_texts(AxisEncoder(), ["red red blue"], normalise=False)
    assert result.vectors[0].tolist() == [0.5, 0.5, 0]


def test_cliper_cut_by_characters_only_what_does_not_fit() -> None:
    class Letters(AxisEncoder):
        """One token per letter."""

        content_length = RELEASED_CHARACTERS + 3

        def tokenize(self, text: str) -> list[int]:
            return ["rb".find(letter) % 3 for letter in text]

    encoder = Letters()
    texts = ["r" * 231, "r" * 230 + "b" * 230, "r" * 240 + "b"]
    result = encode_texts(encoder, texts, "as-released", prompts=["", "bb", ""])

    windows = sorted((window for batch in encoder.batches for window in batch), key=len)
    assert [len(window) for window in windows] == [2, 11, 230, 230, 231, 232]
    assert result.vectors[0].tolist() == [1, 0, 0]
    np.testing.assert_allclose(result.vectors[1], [1, 2, 0])  # a piece of each, and the bare prompt
    assert result.counts == count_texts(encoder, texts, "as-released", ["", "bb", ""])


def test_a_piece_past_the_context_is_cut_and_counted() -> None:
    counts = count_texts(AxisEncoder(), ["red red blue blue red"], "as-released")
    assert counts == {"texts": 1, "texts_windowed": 0, "texts_truncated": 1, "tokens_dropped": 3}
