"""An encoder of images and one of texts, trained as one: a linear head each leads into a common space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..decoding.transform import ImageTransform
from ..encoders.rows import unit_rows
from ..encoders.trainable import TEMPERATURES, TrainableImages, TrainableTexts

IMAGE, TEXT = "image", "text"  # the two in the module, and their folders in a checkpoint
TEMPERATURE = 0.07  # at first, as CLIP has it


class TwoEncoders:
    """A `TrainableEncoder` of two that read one modality each; its vectors are unit rows of width `dim`.

    The heads are drawn from the seed. They have no bias, so that the norms of the encoders' own vectors play
    no part. They serve the training and are not saved: what lies before a projection head keeps more than
    what the loss lets through it (Chen et al., SimCLR, ICML 2020).
    """

    def __init__(self, images: TrainableImages, texts: TrainableTexts, dim: int, seed: int) -> None:
        self.images, self.texts, self.dim = images, texts, dim
        self.context_length, self.content_length = texts.context_length, texts.content_length
        generator = torch.Generator().manual_seed(seed)
        self._heads = nn.ModuleDict(
            {side: _head(width, dim, generator) for side, width in ((IMAGE, images.dim), (TEXT, texts.dim))}
        )
        parts = {IMAGE: images.module, TEXT: texts.module, "heads": self._heads}
        self.module: nn.Module = nn.ModuleDict(parts)
        scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))
        self.module.register_parameter(TEMPERATURES[0], scale)
        self.module.to(next(images.module.parameters()).device).eval()

    @property
    def identity(self) -> dict[str, Any]:
        return {IMAGE: self.images.identity, TEXT: self.texts.identity}

    @property
    def transform(self) -> ImageTransform:
        return self.images.transform

    def tokenize(self, text: str) -> list[int]:
        return self.texts.tokenize(text)

    def image_vectors(self, pixels: Tensor) -> Tensor:
        return self._led(IMAGE, self.images.image_vectors(pixels))

    def text_vectors(self, windows: Sequence[Sequence[int]]) -> Tensor:
        return self._led(TEXT, self.texts.text_vectors(windows))

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        return self._led(IMAGE, torch.from_numpy(self.images.encode_images(pixels))).cpu().numpy()

    @torch.inference_mode()
    def encode_tokens(self, windows: Sequence[Sequence[int]]) -> np.ndarray:
        return self._led(TEXT, torch.from_numpy(self.texts.encode_tokens(windows))).cpu().numpy()

    def layers(self) -> dict[str, int]:
        """Depth of every parameter within its own encoder; 0 of heads and temperature."""
        sides = ((IMAGE, self.images), (TEXT, self.texts))
        depths = {f"{side}.{name}": depth for side, own in sides for name, depth in own.layers().items()}
        return {name: depths.get(name, 0) for name, _ in self.module.named_parameters()}

    def save(self, folder: Path) -> str:
        """Write the two without their heads, to `image` and `text` of the folder; the name of the first comes
        back."""
        self.texts.save(folder / TEXT)
        return self.images.save(folder / IMAGE)

    def _led(self, side: str, vectors: Tensor) -> Tensor:
        head = self._heads[side]
        return unit_rows(head(vectors.to(next(head.parameters()))))


def _head(width: int, dim: int, generator: torch.Generator) -> nn.Linear:
    head = nn.Linear(width, dim, bias=False)
    nn.init.normal_(head.weight, std=width**-0.5, generator=generator)
    return head
