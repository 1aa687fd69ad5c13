"""Which pairs are trained on, and what of them is hidden."""

from pathlib import Path

import numpy as np
import pytest

from mmrec.features.encoders.word_pieces import WordPieces
from mmrec.features.errors import InputError
from mmrec.features.finetuning.pairs import hide_words, split_pairs
from mmrec.features.pretraining.items import Items


def items(image_groups: np.ndarray, text_groups: np.ndarray, has_image: np.ndarray | None = None) -> Items:
    n = len(image_groups)
    has = np.ones(n, bool) if has_image is None else has_image
    return Items(np.zeros((n, 3, 1, 1), np.uint8), has, [[1]] * n, image_groups, text_groups)


def test_duplicates_and_their_duplicates_stay_together() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.integers(0, 80, 100), rng.integers(0, 150, 100)
    parts = split_pairs(items(images, texts), 0.2, 0.1, seed=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    assert [len(part) for part in parts] == [70, 20, 10]
    for groups in (images, texts):
        seen = [set(groups[part].tolist()) for part in parts]
        assert not (seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2])


def test_items_that_lack_one_are_in_no_part() -> None:
    has_image = np.arange(30) % 3 > 0
    parts = split_pairs(items(np.arange(30), np.arange(30), has_image), 0.2, 0.2, seed=1)
    assert sorted(np.concatenate(parts).tolist()) == np.flatnonzero(has_image).tolist()


def test_too_few_pairs_or_too_many_alike_are_refused() -> None:
    for n_groups in (1, 2):
        with pytest.raises(InputError, match="needs two image-text pairs at least"):
            split_pairs(items(np.arange(12) % n_groups, np.arange(12)), 0.1, 0.1, seed=0)


def test_whole_words_are_hidden(word_pieces: Path) -> None:
    tokens = WordPieces(word_pieces, 16)
    ids = tokens.content("red mugs and a mug")
    words = tokens.words(ids)
    assert [len(word) for word in words] == [1, 2, 3, 1, 1]
    for seed in range(20):
        hidden = set(hide_words(np.random.default_rng(seed), words, 0.4).tolist())
        assert sum(hidden >= set(word) for word in words) == 2
        assert len(hidden) == sum(len(word) for word in words if hidden >= set(word))
    assert len(hide_words(np.random.default_rng(0), [], 0.4)) == 0
