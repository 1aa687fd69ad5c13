"""Relative position biases (BEiT, ICLR 2022; VLMo, NeurIPS 2022): which row of a table two tokens read.

For W x W patches and texts of up to T tokens the table has (2W - 1)^2 rows of patch distances, 3 of pairs
with the image's class token, one each of text that looks at image and of image that looks at text, and 2T of
texts: 2T - 3 distances and 3 of pairs with their class token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline
from scipy.optimize import brentq
from torch import Tensor

CLASS_ROWS = 3  # class token to others, others to it, to itself
CROSS_ROWS = 2  # text to image, image to text


def table_rows(grid: int, text_window: int) -> int:
    """Rows of a table for grid x grid patches and texts of up to `text_window` tokens."""
    return (2 * grid - 1) ** 2 + CLASS_ROWS + CROSS_ROWS + 2 * text_window


def image_index(grid: int, device: torch.device | None = None) -> Tensor:
    """Rows (1 + grid^2, 1 + grid^2) for queries and keys of an image, the class token first."""
    side = 2 * grid - 1  # distances along one axis
    places = torch.arange(grid, device=device)
    places = torch.cartesian_prod(places, places)  # (grid^2, 2): row, column
    distances = places[:, None] - places[None] + grid - 1  # query minus key, from 0
    return _with_class(distances[..., 0] * side + distances[..., 1], side**2)


def text_index(length: int, grid: int, text_window: int, device: torch.device | None = None) -> Tensor:
    """Rows (length, length) for queries and keys of a text, the class token first."""
    first = table_rows(grid, 0)
    places = torch.arange(1, length, device=device)
    distances = places[None] - places[:, None] + text_window - 2  # key minus query, from 0
    return _with_class(distances + first, first + 2 * text_window - CLASS_ROWS)


def joint_index(length: int, grid: int, text_window: int, device: torch.device | None = None) -> Tensor:
    """Rows (length + 1 + grid^2, the same) for queries and keys of a text and the image after it."""
    text, image = text_index(length, grid, text_window, device), image_index(grid, device)
    to_image = (2 * grid - 1) ** 2 + CLASS_ROWS
    above = torch.cat([text, text.new_full((length, len(image)), to_image)], dim=1)
    below = torch.cat([image.new_full((len(image), length), to_image + 1), image], dim=1)
    return torch.cat([above, below])


def resize_distances(table: Tensor, old_grid: int, grid: int) -> Tensor:
    """The table for grid x grid patches: rows of patch distances interpolated, all others as they are.

    Near patches keep their bias: the known distances are put 1, q, q^2, ... apart, so that the farthest
    comes to lie where it is in the new grid, and a cubic spline goes through them (BEiT). A smaller grid
    reads the distances that it has.
    """
    n_known = (2 * old_grid - 1) ** 2
    known = table[:n_known].double().numpy().T.reshape(-1, 2 * old_grid - 1, 2 * old_grid - 1)
    places, wanted = _stretched(old_grid - 1, grid - 1), np.arange(1 - grid, grid)
    resized = torch.from_numpy(np.stack([_spline(places, values, wanted) for values in known]))
    return torch.cat([resized.flatten(1).T.to(table.dtype), table[n_known:]])


def _with_class(pairs: Tensor, first: int) -> Tensor:
    """The rows of `pairs` (m, m) with those of the class token before them, (m + 1, m + 1)."""
    index = pairs.new_empty(len(pairs) + 1, len(pairs) + 1)
    index[1:, 1:] = pairs
    index[0, 1:], index[1:, 0], index[0, 0] = first, first + 1, first + 2
    return index


def _stretched(n_steps: int, reach: int) -> np.ndarray:
    """Places (2 * n_steps + 1,) around 0, each step q times the one before, the last at `reach` or beyond."""
    powers = np.arange(n_steps)
    ratio: Any = 1.0
    if 1 < n_steps < reach:
        ratio = brentq(lambda q: float((q**powers).sum()) - reach, 1.0, reach)
    outwards = (ratio**powers).cumsum()
    return np.concatenate([-outwards[::-1], [0.0], outwards])


def _spline(places: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`values` at places x places, interpolated at wanted x wanted; beyond the last place, its value."""
    if len(places) == 1:
        return np.full((len(wanted), len(wanted)), values[0, 0])
    degree = min(3, len(places) - 1)
    return RectBivariateSpline(places, places, values, kx=degree, ky=degree)(wanted, wanted)
