"""Image-text pairs: which are trained on, and batches of them with what chance decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import InputError
from ..pretraining.items import Items


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs of one step, or some of them."""

    rows: np.ndarray  # (b,) of the items
    boxes: np.ndarray  # (b, 4) left, top, right, bottom of what is seen of each image, as shares of its sides
    hidden: Sequence[np.ndarray]  # places of the text's tokens that are hidden for mlm
    draws: np.ndarray  # (b, 2) in 0..1: which of the others become hard negatives

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, chosen: slice | np.ndarray) -> PairBatch:
        """Some of the pairs, in their order."""
        places = np.arange(len(self))[chosen]
        hidden = [self.hidden[place] for place in places]
        return PairBatch(self.rows[places], self.boxes[places], hidden, self.draws[places])


def split_pairs(items: Items, validation: float, held_out: float, seed: int) -> list[np.ndarray]:
    """Ascending rows of pairs to train on, to validate on, and held out.

    Pairs that share an image or a text, and those that share one with these, stay together: what is held out
    was not seen in another pair. InputError where there are too few pairs for two in each part.
    """
    pairs = np.flatnonzero(items.has_image & items.has_text)
    labels = _components(items, pairs)
    order = np.random.default_rng([seed, 0]).permutation(labels.max(initial=-1) + 1)
    members = {label: pairs[labels == label] for label in order.tolist()}
    parts = []
    for share in (held_out, validation):
        room = max(round(share * len(pairs)), 2)
        taken = []
        for label in list(members):
            if len(members[label]) <= room:
                taken.append(members.pop(label))
                room -= len(taken[-1])
            if not room:
                break
        parts.append(np.sort(np.concatenate(taken)) if taken else pairs[:0])
    parts.append(np.sort(np.concatenate(list(members.values()))) if members else pairs[:0])
    if min(map(len, parts)) < 2:
        raise InputError(
            f"fine-tuning needs two image-text pairs at least to train on, to validate on and held out; of "
            f"{len(pairs)} pairs, with those that share an image or a text kept together, they are "
            f"{', '.join(str(len(part)) for part in reversed(parts))}. Look at catalog.image, "
            "catalog.image_root and finetune.text"
        )
    return parts[::-1]


def _components(items: Items, pairs: np.ndarray) -> np.ndarray:
    """A number for each pair, equal for those that equal images or texts join, (n,)."""
    images = np.unique(items.image_groups[pairs], return_inverse=True)[1]
    texts = np.unique(items.text_groups[pairs], return_inverse=True)[1] + images.max(initial=-1) + 1
    size = texts.max(initial=-1) + 1
    graph = coo_array((np.ones(len(pairs)), (images, texts)), shape=(size, size))
    return np.unique(connected_components(graph, directed=False)[1][images], return_inverse=True)[1]


def draw_boxes(rng: np.random.Generator, n: int, crop: float) -> np.ndarray:
    """Random boxes (n, 4) that leave at least 1 - crop of an image's area, of its own shape."""
    sides = np.sqrt(1 - crop * rng.random(n))
    left, top = rng.random((2, n)) * (1 - sides)
    return np.stack([left, top, left + sides, top + sides], axis=1)


def hide_words(rng: np.random.Generator, words: Sequence[Sequence[int]], share: float) -> np.ndarray:
    """Ascending places of the tokens of so large a share of the words, at least one of them; a word is the
    list of its tokens' places."""
    wanted = min(max(round(share * len(words)), 1), len(words))
    chosen = rng.choice(len(words), wanted, replace=False) if wanted else []
    return np.sort(np.array([place for word in chosen for place in words[word]], dtype=np.int64))
