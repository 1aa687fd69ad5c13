"""Plain NumPy: ids, features and vectors of the model, row i of every matrix being id i."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from .names import ExportFormat
from .notes import Notes
from .run_data import RunData


def write(run: RunData, folder: Path, name: str, chosen: Mapping[str, str]) -> Notes:
    """item_ids.npy, <view>.npy (float16, NaN where an item has none), and of a model user_ids.npy, users.npy,
    items.npy: the score of a user and an item is the inner product of their rows.

    Ids are int64, or strings of a fixed width. Models whose users are histories have users.npz, a sparse
    matrix of SciPy's. Nothing is pickled.
    """
    names = run.named_views(chosen)
    _save_ids(folder / "item_ids.npy", run.item_ids)
    for called, view in names.items():
        assert run.store is not None  # it has views
        shape, row = (len(run.item_ids), run.store.dim(view)), 0
        matrix = np.lib.format.open_memmap(folder / f"{called}.npy", "w+", np.float16, shape)
        for values, present in run.blocks(view):
            matrix[row : row + len(values)] = np.where(present[:, None], values, np.float16("nan"))
            row += len(values)
        matrix.flush()
    if run.bundle is not None:
        users = run.bundle.vectors.users
        _save_ids(folder / "user_ids.npy", run.bundle.user_ids)
        np.save(folder / "items.npy", run.bundle.vectors.items, allow_pickle=False)
        if isinstance(users, sparse.csr_matrix):
            sparse.save_npz(folder / "users.npz", users)
        else:
            np.save(folder / "users.npy", users, allow_pickle=False)
    return run.notes(ExportFormat.numpy, names)


def _save_ids(path: Path, ids: pl.Series) -> None:
    values = np.array(ids.to_list(), np.str_) if ids.dtype == pl.String else ids.to_numpy()
    np.save(path, values, allow_pickle=False)
