"""Two views of the same items, set against each other: a loss that keeps them aligned, and a measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .feature_bank import FeatureBank
from .modalities import is_image_view
from .unit_rows import unit_rows


def view_contrast(first: Tensor, second: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Mean InfoNCE of cosines / temperature, both ways, of rows (b, d) of the same items; 0 for fewer than 2.

    `same` (b, b) is True for two items that one of the views cannot tell apart: they are no negatives of each
    other.
    """
    own = torch.arange(len(first), device=first.device)
    if len(own) < 2:
        return 0 * (first.sum() + second.sum())  # which can be followed back
    logits = unit_rows(first) @ unit_rows(second).T / temperature
    logits = logits.masked_fill(same & (own != own.unsqueeze(1)), -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def recall_at_1(first: Tensor, second: Tensor, same: Tensor) -> float:
    """Share of rows (b, d) whose nearest row of the other view is the item's own, or one it is the `same` as;
    mean of both ways."""
    cosines = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T  # (b, b)
    found = [same.gather(1, scores.argmax(dim=1, keepdim=True)) for scores in (cosines, cosines.T)]
    return float(torch.cat(found).float().mean())


class ImageTexts:
    """The first image view of a bank beside every text view of the same size; `texts` is empty without any.

    `contents`, view -> (n_items,) int64: equal numbers for items that share a picture, or a text.
    """

    def __init__(self, bank: FeatureBank, contents: Mapping[str, Tensor]) -> None:
        self.bank, self.contents = bank, contents
        self.image = next(filter(is_image_view, bank.tables), "")
        widths = {view: table.shape[1] for view, table in bank.tables.items()}
        others = [view for view in widths if not is_image_view(view)]
        self.texts = [view for view in others if widths[view] == widths.get(self.image)]

    def contrast(self, rows: Tensor, temperature: float) -> Tensor:
        """Mean over the text views of their `view_contrast` with the image, among the items `rows`."""
        losses = []
        for text, held, same in self._held(rows):
            first, second = (
                F.embedding(held, self.bank.tables[view], sparse=True) for view in (self.image, text)
            )
            losses.append(view_contrast(first, second, same, temperature))
        return torch.stack(losses).mean()

    def retrieval(self, rows: Tensor, vectors: Mapping[str, Tensor]) -> dict[str, float]:
        """By text view, `recall_at_1` of `vectors`, those of ascending `rows`, where there is an image."""
        found = {}
        for text, held, same in self._held(rows):
            places = torch.searchsorted(rows, held)
            if len(held):
                found[text] = recall_at_1(vectors[self.image][places], vectors[text][places], same)
        return found

    def _held(self, rows: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Every text view, those of `rows` that have it and an image, (m,), and which share one, (m, m)."""
        for text in self.texts:
            held = rows[self.bank.present[self.image][rows] & self.bank.present[text][rows]]
            groups = [self.contents[view][held] for view in (self.image, text)]
            same = [group == group.unsqueeze(1) for group in groups]
            yield text, held, same[0] | same[1]
