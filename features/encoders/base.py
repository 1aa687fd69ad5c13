"""What extraction asks of an encoder: images and windows of tokens in, vectors of one space out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..decoding.transform import ImageTransform


class ImageEncoder(Protocol):
    """Images to float32 rows.

    The rows have unit length unless the encoder was loaded with `normalise=False`.
    """

    dim: int

    @property
    def identity(self) -> dict[str, Any]:
        """JSON-able facts; two encoders with equal identity give equal vectors up to rounding."""
        ...

    @property
    def transform(self) -> ImageTransform:
        """What makes the (3, h, w) uint8 array of one RGB image that `encode_images` takes."""
        ...

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Rows, (n, dim) float32, of transformed images."""
        ...


class TextEncoder(Protocol):
    """Windows of tokens to float32 rows, of unit length as an `ImageEncoder`'s."""

    dim: int
    context_length: int  # tokens of one text window with the special ones
    content_length: int  # tokens of one text window that carry text

    @property
    def identity(self) -> dict[str, Any]:
        """As an `ImageEncoder`'s."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """The text's token ids, without special tokens or padding, however long."""
        ...

    def encode_tokens(self, windows: Sequence[Sequence[int]]) -> np.ndarray:
        """Rows, (n, dim) float32, of token windows, none longer than `content_length`."""
        ...


@runtime_checkable
class Encoder(ImageEncoder, TextEncoder, Protocol):
    """Both in one space: the cosine of an image and a text is their similarity."""

    @property
    def identity(self) -> dict[str, Any]: ...


@runtime_checkable
class JointEncoder(Encoder, Protocol):
    """An encoder that reads an image and a text in one pass."""

    def encode_joint(
        self, pixels: Sequence[np.ndarray | None], windows: Sequence[Sequence[int] | None]
    ) -> np.ndarray:
        """Rows, (n, dim) float32, of transformed images with their token windows.

        None stands for an image or a text that is not there, or that is to be hidden; the encoder puts a
        blank one of its own in the place, so that all rows are of one space.
        """
        ...
