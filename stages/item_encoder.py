"""The items of a data set through the encoders of its features, differentiable: `RowEncoder` of `recsys`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..features.encoders.trainable import TrainableImages, TrainableTexts
from ..recsys.unit_rows import unit_rows
from .item_inputs import ItemInputs, ViewInputs


class ItemEncoder:
    """Vectors of items as extraction pools them, from one encoder for images and texts or one for each.

    Item i of the data set is row `places[i]` of the inputs. `present` holds the views that are encoded, and
    which items have them.
    """

    def __init__(
        self,
        images: TrainableImages | None,
        texts: TrainableTexts | None,
        inputs: ItemInputs,
        places: np.ndarray,
        present: Mapping[str, Tensor],
    ) -> None:
        self.images, self.texts, self.inputs, self.places = images, texts, inputs, places
        self.present = present
        self.device = next(iter(present.values())).device
        self._views = {**inputs.images, **inputs.texts}
        both = [encoder for encoder in (images, texts) if encoder is not None]
        apart = len(both) == 2 and images is not texts
        self.module: nn.Module = nn.ModuleList(e.module for e in both) if apart else both[0].module
        self.depths: Mapping[str, int] = {
            f"{number}.{name}" if apart else name: depth
            for number, encoder in enumerate(both)
            for name, depth in encoder.layers().items()
        }
        groups = {view: self._views[view].groups()[places] for view in present}
        self.contents: Mapping[str, Tensor] = {
            view: torch.from_numpy(numbers).to(self.device) for view, numbers in groups.items()
        }

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        """Vectors (b, d) of items (b,) in every view; each crop and each window is encoded once."""
        places = self.places[rows.cpu().numpy()].tolist()
        taken = {view: self._views[view].take(places) for view in self.present}
        vectors = {}
        for of_kind, read in ((self.inputs.images, self._crops), (self.inputs.texts, self._windows)):
            own = {view: part for view, part in taken.items() if view in of_kind}
            numbers = np.unique(
                np.concatenate([[], *(part.numbers for part in own.values())]).astype(np.int64)
            )
            encoded = read(numbers) if len(numbers) else None
            for view, part in own.items():
                pooled = self._pooled(encoded, numbers, part, len(rows), view)
                vectors[view] = pooled * self.present[view][rows].unsqueeze(1)
        return vectors

    def _crops(self, numbers: np.ndarray) -> Tensor:
        assert self.images is not None
        return self.images.image_vectors(torch.from_numpy(self.inputs.pixels[numbers]).to(self.device))

    def _windows(self, numbers: np.ndarray) -> Tensor:
        assert self.texts is not None
        return self.texts.text_vectors([self.inputs.windows[number] for number in numbers])

    def _pooled(
        self, encoded: Tensor | None, numbers: np.ndarray, part: ViewInputs, n: int, view: str
    ) -> Tensor:
        """Weighted sums (n, d) of the rows of `encoded`, which are those of `numbers`; zero without any."""
        if encoded is None:
            encoder = self.images if view in self.inputs.images else self.texts
            assert encoder is not None
            return torch.zeros(n, encoder.dim, device=self.device)
        owners = torch.from_numpy(np.repeat(np.arange(n), np.diff(part.starts))).to(self.device)
        rows = torch.from_numpy(np.searchsorted(numbers, part.numbers)).to(self.device)
        weights = torch.from_numpy(part.weights).to(self.device, encoded.dtype)
        sums = encoded.new_zeros(n, encoded.shape[1])
        sums = sums.index_add(0, owners, encoded.index_select(0, rows) * weights.unsqueeze(1))
        return unit_rows(sums) if part.unit else sums
