"""Plain JPEGs to pixels at about three times Pillow's speed, and within two grey levels of it.

What is plain is judged from the header, and the same pixels come out whichever decoder is installed.
Imports torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import first_line
from .images import upright_turn
from .transform import ImageTransform

_REACH = 2  # source pixels that a kernel looks at each way, at most; more of them where it shrinks

torch.set_num_threads(1)


def read_jpeg(image: Image.Image, content: bytes, exif_rotate: bool) -> TorchPicture:
    """The picture that `image`, a plain JPEG, was opened from.

    What the faster decoder stumbles over is left to Pillow, so that the verdict on damaged files is the same.
    """
    try:
        pixels = load_decoder()(content)
    except (ValueError, RuntimeError):
        pixels = None
    if pixels is None or pixels.shape[:2] != (image.height, image.width):
        pixels = np.array(image.convert("RGB"))
    turn = upright_turn(image) if exif_rotate else None
    return TorchPicture(np.array(Image.fromarray(pixels).transpose(turn)) if turn is not None else pixels)


@functools.cache
def load_decoder() -> Callable[[bytes], np.ndarray]:
    """The fastest that is installed of what makes RGB pixels (h, w, 3) uint8 of a JPEG.

    It raises ValueError or RuntimeError where it cannot.
    """
    for load in (_simplejpeg, _torchvision):
        try:
            return load()
        except ImportError:
            continue
    return _pillow


def _simplejpeg() -> Callable[[bytes], np.ndarray]:
    """Strict: it refuses any file that libjpeg warns of."""
    from simplejpeg import decode_jpeg  # pyright: ignore - an optional package

    return partial(decode_jpeg, colorspace="RGB")


def _torchvision() -> Callable[[bytes], np.ndarray]:
    """On its way out of torchvision."""
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode(content: bytes) -> np.ndarray:
        pixels: Any = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
        return pixels.permute(1, 2, 0).numpy()

    return decode


def _pillow(content: bytes) -> np.ndarray:
    raise ValueError("left to Pillow")


@dataclass(frozen=True, slots=True, eq=False)
class TorchPicture:
    """RGB pixels (h, w, 3) uint8 that torch resizes; what lies behind the part that is kept is not made."""

    image: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        height, width, _ = self.image.shape
        return width, height

    def write(self, box: tuple[int, int, int, int], transform: ImageTransform, pixels: np.ndarray) -> None:
        """Raises MemoryError."""
        left, top, right, bottom = box
        full = bottom - top, right - left
        resized = transform.resized_size(*full)
        rows, columns = transform.kept(resized)
        part = self.image[
            top : top + _needed(full[0], resized[0], rows[1]),
            left : left + _needed(full[1], resized[1], columns[1]),
        ]
        try:  # batch, channels, height, width, with the channels last in memory: what the fast kernel takes
            source = torch.from_numpy(np.ascontiguousarray(part))[None].permute(0, 3, 1, 2)
            for axis in (0, 1) if _rows_first(full, resized) else (1, 0):
                last = (rows, columns)[axis][1]
                source = _along(source, axis, full[axis], resized[axis], last, transform.interpolation)
        except RuntimeError as error:
            if "memory" in str(error):
                raise MemoryError(first_line(error)) from error
            raise
        transform.place(source[0, :, slice(*rows), slice(*columns)].numpy(), pixels)


def _needed(full: int, length: int, last: int) -> int:
    """How many of `full` pixels the first `last` of `length` resized ones are made from."""
    if last == length:
        return full
    scale = full / length
    return min(full, math.ceil((last - 0.5) * scale + _REACH * max(scale, 1)) + 1)


def _rows_first(full: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether Pillow shrinks the height before the width; it rounds to grey levels in between."""
    return _pillow_may_begin_with_rows() and full[0] - resized[0] > 2 * max(full[1] - resized[1], 0)


@functools.cache
def _pillow_may_begin_with_rows() -> bool:
    """Releases before 13 never do."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 16, 3), np.uint8))
    rows_first = image.resize((16, 8), Image.Resampling.BICUBIC).resize((8, 8), Image.Resampling.BICUBIC)
    return image.resize((8, 8), Image.Resampling.BICUBIC).tobytes() == rows_first.tobytes()


def _along(image: Tensor, axis: int, full: int, length: int, last: int, kernel: str) -> Tensor:
    """The height (axis 0) or width (1), `full` pixels of it, brought to `length`.

    If fewer are wanted, `image` has the first of the `full` pixels, and the `last` and a few more come back.
    """
    if full == length:
        return image
    if last == length:
        size = [length if at == axis else image.shape[2 + at] for at in (0, 1)]
        return interpolate(image, size=size, mode=kernel, antialias=True)
    scales = [length / full if at == axis else 1.0 for at in (0, 1)]
    return interpolate(image, scale_factor=scales, mode=kernel, antialias=True)
