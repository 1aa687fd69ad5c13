"""One item's pictures to the pixels of its columns: every crop of every column from a single decode."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from ..errors import ImageFailure
from .boxes import Cut, pixel_box
from .images import is_plain_jpeg, opened, upright_rgb
from .transform import FAST_KERNELS, ImageTransform

Images = Sequence[bytes | ImageFailure]  # what became of the references of one item


class Crop(NamedTuple):
    """A part of a picture, and how it becomes pixels."""

    cut: Cut
    transform: ImageTransform

    @property
    def bytes(self) -> int:
        """Of its pixels."""
        height, width = self.transform.size
        return 3 * height * width


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

    def order(self) -> dict[str, Any]:
        """What a worker has to know of it, JSON-able."""
        return {
            "crops": [[cut, transform.to_json()] for cut, transform in self.crops],
            "max_pixels": self.max_pixels,
            "exif_rotate": self.exif_rotate,
            "memory_mb": self.memory_mb,
            "fast": goes_fast(self.crops),
        }


@dataclass(slots=True)
class Decoded:
    """The pixels of one item, and what is wrong with its other pictures."""

    pixels: dict[str, list[np.ndarray]]  # column -> (3, h, w) uint8 crops of all readable pictures
    failures: list[ImageFailure] = field(default_factory=list)
    decode_seconds: float = 0.0
    transform_seconds: float = 0.0


class Picture(Protocol):
    """A decoded image that crops are made of."""

    @property
    def size(self) -> tuple[int, int]:  # (width, height)
        ...

    def write(self, box: tuple[int, int, int, int], transform: ImageTransform, pixels: np.ndarray) -> None:
        """The transformed part of it from left, top to right, bottom, into `pixels` (3, h, w) uint8."""
        ...


@dataclass(frozen=True, slots=True)
class PillowPicture:
    """An RGB image of Pillow's, transformed by Pillow: the reference."""

    image: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    def write(self, box: tuple[int, int, int, int], transform: ImageTransform, pixels: np.ndarray) -> None:
        whole = box == (0, 0, *self.image.size)
        transform.write(self.image if whole else self.image.crop(box), pixels)


def goes_fast(crops: Sequence[Crop]) -> bool:
    """Whether plain JPEGs need not be resized by Pillow."""
    return all(crop.transform.interpolation in FAST_KERNELS for crop in crops)


def decode_crops(
    content: bytes, crops: Sequence[Crop], pixels: Sequence[np.ndarray], max_pixels: int, exif_rotate: bool
) -> tuple[float, float]:
    """Write all crops of one picture to `pixels`; the seconds of decoding it and of transforming it.

    Raises ImageFailure, and MemoryError where a decoder lacks memory.
    """
    started = time.perf_counter()
    picture = _decode(content, crops, max_pixels, exif_rotate)
    decoded = time.perf_counter()
    for (cut, transform), of_crop in zip(crops, pixels, strict=True):
        picture.write(pixel_box(cut, *picture.size), transform, of_crop)
    return decoded - started, time.perf_counter() - decoded


def _decode(content: bytes, crops: Sequence[Crop], max_pixels: int, exif_rotate: bool) -> Picture:
    with opened(content, max_pixels) as image:
        if is_plain_jpeg(image) and goes_fast(crops):
            from .jpeg import read_jpeg  # loads torch, which other pictures do without

            return read_jpeg(image, content, exif_rotate)
        return PillowPicture(upright_rgb(image, exif_rotate))
