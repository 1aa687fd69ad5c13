"""One item's pictures to the pixels of its columns: every crop of every column from a single decode."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
        }


@dataclass(slots=True)
class Decoded:
    """The pixels of one item, and what is wrong with its other pictures."""

    pixels: dict[str, list[np.ndarray]]  # column -> (3, h, w) uint8 crops of all readable pictures
    failures: list[ImageFailure] = field(default_factory=list)
    decode_seconds: float = 0.0
    transform_seconds: float = 0.0


def decode_crops(
    content: bytes, crops: Sequence[Crop], pixels: Sequence[np.ndarray], max_pixels: int, exif_rotate: bool
) -> tuple[float, float]:
    """Write all crops of one picture to `pixels`; the seconds of decoding it and of transforming it.

    Raises ImageFailure, and MemoryError where a decoder lacks memory.
    """
    started = time.perf_counter()
    image = decode_image(content, max_pixels, exif_rotate)
    decoded = time.perf_counter()
    whole = (0, 0, image.width, image.height)
    for (cut, transform), of_crop in zip(crops, pixels, strict=True):
        box = pixel_box(cut, image.width, image.height)
        transform.write(image if box == whole else image.crop(box), of_crop)
    return decoded - started, time.perf_counter() - decoded
