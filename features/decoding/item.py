"""One item's pictures to the pixels of its columns: every crop of every column from a single decode."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..errors import ImageFailure
from .boxes import Cut, pixel_box
from .images import decode_image
from .transform import ImageTransform

Images = Sequence[bytes | ImageFailure]  # what became of the references of one item


class Crop(NamedTuple):
    """A part of a picture, and how it becomes pixels."""

    cut: Cut
    transform: ImageTransform


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """What is made of every item's pictures, and the limits that each picture is held to."""

    columns: Mapping[str, Sequence[Crop]]
    max_pixels: int
    exif_rotate: bool = True
    first_only: bool = False  # one readable picture of an item is enough
    seconds: float = 30.0  # of decoding one picture
    memory_mb: int = 2048  # that decoding one picture may take

    @property
    def crops(self) -> tuple[Crop, ...]:
        """All crops, each once: columns share what they have in common."""
        return tuple(dict.fromkeys(crop for crops in self.columns.values() for crop in crops))


@dataclass(slots=True)
class Decoded:
    """The pixels of one item, and what is wrong with its other pictures."""

    pixels: dict[str, list[np.ndarray]]  # column -> (3, h, w) uint8 crops of all readable pictures
    failures: list[ImageFailure] = field(default_factory=list)
    decode_seconds: float = 0.0
    transform_seconds: float = 0.0


class ImageCrops(NamedTuple):
    """The crops of one picture, in the order of the plan's, and the seconds that they took."""

    pixels: list[np.ndarray]
    decode_seconds: float
    transform_seconds: float


def decode_crops(content: bytes, crops: Sequence[Crop], max_pixels: int, exif_rotate: bool) -> ImageCrops:
    """All crops of one picture. Raises ImageFailure."""
    started = time.perf_counter()
    image = decode_image(content, max_pixels, exif_rotate)
    decoded = time.perf_counter()
    whole = (0, 0, image.width, image.height)
    pixels = []
    for cut, transform in crops:
        box = pixel_box(cut, image.width, image.height)
        pixels.append(transform(image if box == whole else image.crop(box)))
    return ImageCrops(pixels, decoded - started, time.perf_counter() - decoded)
