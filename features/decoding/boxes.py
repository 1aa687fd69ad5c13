"""Boxes cut from a picture: the image views of an item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..errors import InputError

Box = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of width and height
Cut = Box | Literal["center"]  # "center" is three quarters of the largest centred square

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_CENTER_SHARE = 0.75  # side of the centre crop over the side of the largest square
_QUADRANTS: tuple[Box, ...] = (
    (0.0, 0.0, 0.5, 0.5),
    (0.5, 0.0, 1.0, 0.5),
    (0.0, 0.5, 0.5, 1.0),
    (0.5, 0.5, 1.0, 1.0),
)


def image_view_cuts(name: str, crops: Mapping[str, Sequence[Box]]) -> tuple[Cut, ...]:
    """What a view is the mean over. Raises InputError for a view that is neither built in nor in `crops`."""
    if name in crops:
        return tuple(crops[name])
    if name == "full":
        return (WHOLE,)
    if name == "quadrants":
        return _QUADRANTS
    if name == "center":
        return ("center",)
    known = ", ".join(["full", "center", "quadrants", *crops])
    raise InputError(f"unknown image view '{name}'; there are {known}. Define it in extract.crops")


def image_view_definition(name: str, crops: Mapping[str, Sequence[Box]]) -> dict[str, Any]:
    """What a manifest records of the view: whatever changes its pixels changes this."""
    if name == "center" and name not in crops:
        return {"center_square": _CENTER_SHARE}
    return {"boxes": [list(box) for box in image_view_cuts(name, crops)]}


def pixel_box(cut: Cut, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a cut of an image of that size, at least one pixel each way."""
    if cut == "center":
        side = _CENTER_SHARE * min(width, height)
        left, top = (1 - side / width) / 2, (1 - side / height) / 2
        cut = (left, top, 1 - left, 1 - top)
    left, right = _span(cut[0], cut[2], width)
    top, bottom = _span(cut[1], cut[3], height)
    return left, top, right, bottom


def _span(start: float, stop: float, length: int) -> tuple[int, int]:
    first = min(math.floor(start * length + 0.5), length - 1)
    return first, min(max(math.floor(stop * length + 0.5), first + 1), length)
