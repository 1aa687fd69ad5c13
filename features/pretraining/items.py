"""The items of a catalogue as pre-training reads them, and batches of them with what is hidden in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .config import AlignConfig
from .masks import hide_patches, hide_tokens


@dataclass(frozen=True, slots=True)
class Items:
    """Row i of every part is one item."""

    pixels: np.ndarray  # (n, 3, h, w) uint8, memory-mapped; zeros where there is no image
    has_image: np.ndarray  # (n,) bool
    tokens: Sequence[Sequence[int]]  # ids of the text without special ones, cut to the context; may be empty
    image_groups: np.ndarray  # (n,) equal numbers: equal pixels
    text_groups: np.ndarray  # (n,) equal numbers: equal tokens
    targets: np.ndarray | None = None  # (n, d) of a teacher or (n, patches) codes; None: the pixels
    has_target: np.ndarray | None = None  # (n,) bool; None: every image has one
    has_text: np.ndarray = field(init=False)  # (n,) bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_text", np.array([len(ids) > 0 for ids in self.tokens], dtype=bool))

    def __len__(self) -> int:
        return len(self.has_image)

    def same(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Which two items share their text or their image, (rows, others) bool: nothing tells them apart."""
        texts = self.text_groups[rows][:, None] == self.text_groups[others]
        return texts | (self.image_groups[rows][:, None] == self.image_groups[others])


def split_held_out(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ascending rows to train on and rows held out: at least one of each where there are two."""
    order = np.random.default_rng([seed, 0]).permutation(n)
    held_out = min(max(round(share * n), 1), n - 1)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


@dataclass(frozen=True, slots=True)
class Batch:
    """Items of one step, or some of them, with what is hidden."""

    rows: np.ndarray  # (b,) of the items
    hidden_patches: np.ndarray  # (b, patches) bool
    hidden_tokens: Sequence[np.ndarray]  # places in the text
    no_image: np.ndarray  # (b,) bool: in the pass of mlm, all of the image is hidden
    no_text: np.ndarray  # (b,) bool: in the pass of mim, all of the text is hidden
    mlm: np.ndarray  # (b,) bool: hidden tokens are predicted
    mim: np.ndarray  # (b,) bool: hidden patches are predicted
    paired: np.ndarray  # (b,) bool: has both, so can be contrasted

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, chosen: slice | np.ndarray) -> Batch:
        """Some of the items, in their order."""
        places = np.arange(len(self))[chosen]
        arrays = ("rows", "hidden_patches", "no_image", "no_text", "mlm", "mim", "paired")
        kept = {name: getattr(self, name)[places] for name in arrays}
        return replace(self, hidden_tokens=[self.hidden_tokens[place] for place in places], **kept)

    def counts(self, of_image: bool) -> dict[str, int]:
        """Predictions of each objective; with `of_image` mim predicts once for an image, not for a patch."""
        patches = self.mim.sum() if of_image else self.hidden_patches[self.mim].sum()
        tokens = sum(len(self.hidden_tokens[place]) for place in np.flatnonzero(self.mlm).tolist())
        pairs, joint = int(self.paired.sum()), int((self.paired & self.mlm).sum())
        return {"mlm": tokens, "mim": int(patches), "contrastive": pairs, "joint": joint}


def draw_batch(
    items: Items, rows: np.ndarray, grid: int, config: AlignConfig, rng: np.random.Generator
) -> Batch:
    """A batch of these items with masks from `rng`."""
    has_image, has_text = items.has_image[rows], items.has_text[rows]
    paired = has_image & has_text
    drawn = rng.random(len(rows))
    no_image = ~has_image | (paired & (drawn < config.blank / 2))
    no_text = ~has_text | (paired & (drawn >= 1 - config.blank / 2))
    # One pass for both cannot predict what is hidden altogether; a pass for each shows its own modality.
    mlm = has_text & ~no_text if config.mask_both else has_text
    mim = has_image & ~no_image if config.mask_both else has_image
    if items.has_target is not None:
        mim = mim & items.has_target[rows]
    ratios = np.where(no_image, config.text_mask_unpaired, config.text_mask)
    return Batch(
        rows=rows,
        hidden_patches=hide_patches(rng, len(rows), grid, config.patch_mask),
        hidden_tokens=hide_tokens(rng, [len(items.tokens[row]) for row in rows], ratios.tolist()),
        no_image=no_image,
        no_text=no_text,
        mlm=mlm,
        mim=mim,
        paired=paired,
    )


def epoch_batches(rows: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The rows in an order of the epoch's own, in batches of at most `batch_size` and nearly equal size."""
    order = np.random.default_rng([seed, 1, epoch]).permutation(rows)
    return np.array_split(order, -(-len(rows) // batch_size))


def step_generator(seed: int, epoch: int, step: int) -> np.random.Generator:
    """What a step draws follows from its number alone: nothing of it to keep in a checkpoint."""
    return np.random.default_rng([seed, 2, epoch, step])


def held_out_generator(seed: int, step: int) -> np.random.Generator:
    """Held-out items are masked alike in every epoch."""
    return np.random.default_rng([seed, 3, step])
