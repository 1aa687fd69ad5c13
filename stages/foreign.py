"""Ready-made features: the matrices of `extract.foreign`, and items that have nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import polars as pl

from ..features.catalog import Catalog
from ..features.errors import InputError


def open_foreign(view: str, path: Path) -> np.ndarray:
    """The (n_items, d) matrix of ready-made features in `path`, memory-mapped."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file (extract.foreign.{view})")
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: not a .npy matrix of numbers ({error})") from error
    if not isinstance(matrix, np.ndarray):
        raise InputError(f"{path}: an archive of several arrays; save the one of the features as .npy")
    if matrix.ndim != 2 or 0 in matrix.shape or not np.issubdtype(matrix.dtype, np.floating):
        raise InputError(
            f"{path}: shape {matrix.shape} of {matrix.dtype}; expected (items, dimensions) of floats"
        )
    return matrix


def numbered_items(foreign: Mapping[str, np.ndarray]) -> Catalog:
    """A catalogue for features without one: item ids are row numbers."""
    n_items = len(next(iter(foreign.values())))
    item_ids = pl.Series("item_id", np.arange(n_items, dtype=np.int64))
    return Catalog(item_ids, pl.DataFrame(), [()] * n_items, None)
