"""What an encoder does to a picture before it is normalised: a resize, then the centre of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

Resize = Literal["shortest", "longest", "squash"]
Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
FAST_KERNELS = ("bilinear", "bicubic")  # those that torch has with antialiasing


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """RGB images of any size to (3, h, w) uint8 pixels of one size.

    The shorter side is brought to the size (and the longer one cut), the longer one (and the shorter one
    padded), or both, by which the picture is squashed.
    """

    size: tuple[int, int]  # (h, w) of what comes back
    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"
    resized: tuple[int, int] | None = None  # (h, w) that the resize aims at, where that is not `size`
    fill: tuple[int, int, int] = (0, 0, 0)  # colour of the padding

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The pixels that the encoder's own library makes of the image, by Pillow; safe in many threads."""
        pixels = np.empty((3, *self.size), np.uint8)
        self.write(image, pixels)
        return pixels

    def write(self, image: Image.Image, pixels: np.ndarray) -> None:
        """As a call, into `pixels`."""
        height, width = self.resized_size(image.height, image.width)
        resized = np.asarray(image.resize((width, height), Image.Resampling[self.interpolation.upper()]))
        (top, bottom), (left, right) = self.kept((height, width))
        self.place(resized[top:bottom, left:right].transpose(2, 0, 1), pixels)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ImageTransform:
        """The transform whose `to_json` went through JSON, where tuples become lists."""
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists})

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of an image after the resize, before anything is cut or padded."""
        aim = self.resized or self.size
        if self.resize == "squash":
            return aim
        if self.resize == "shortest" and aim[0] == aim[1]:  # torchvision cuts the longer side's fraction off
            shorter = min(height, width)
            return int(aim[0] * height / shorter), int(aim[0] * width / shorter)
        ratios = height / aim[0], width / aim[1]
        ratio = min(ratios) if self.resize == "shortest" else max(ratios)
        return max(round(height / ratio), 1), max(round(width / ratio), 1)

    def kept(self, resized: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """The rows and the columns of a resized image that are its centre: first, and last + 1."""
        return _middle(resized[0], self.size[0]), _middle(resized[1], self.size[1])

    def place(self, centre: np.ndarray, pixels: np.ndarray) -> None:
        """Write the centre of a resized image, (3, h, w), into `pixels`, padded where it is smaller."""
        if centre.shape == pixels.shape:
            pixels[:] = centre
            return
        pixels[:] = np.array(self.fill, np.uint8)[:, None, None]
        _, height, width = centre.shape
        top, left = (self.size[0] - height) // 2, (self.size[1] - width) // 2
        pixels[:, top : top + height, left : left + width] = centre


def _middle(length: int, kept: int) -> tuple[int, int]:
    """Where the middle of a side starts and stops; all of a side that is shorter."""
    start = max(round((length - kept) / 2), 0)
    return start, min(start + kept, length)
