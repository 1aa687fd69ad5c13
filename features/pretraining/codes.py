"""Visual codes of a BEiT-2 style tokenizer, computed elsewhere: what hidden patches are predicted as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from ..errors import InputError
from ..tables import check_columns, read_table


def read_codes(
    path: Path, item_ids: pl.Series, n_patches: int, visual_codes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, n_patches) int64 in the order of `item_ids` and which items have them, (n,).

    From a .npy matrix whose row i is the i-th item, where negative codes mean none, or from a table with
    `item_id` and a list column `codes`, in any order and not necessarily of all items.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file (align.codes)")
    codes = _codes_of_matrix(path) if path.suffix == ".npy" else _codes_of_table(path, item_ids)
    if codes.shape != (len(item_ids), n_patches):
        raise InputError(
            f"{path}: codes of shape {codes.shape}; expected one for each patch of each item, "
            f"({len(item_ids)}, {n_patches})"
        )
    if codes.max() >= visual_codes:
        raise InputError(
            f"{path}: holds the code {codes.max()}, but align.visual_codes is {visual_codes}: codes are 0 to "
            f"{visual_codes - 1}"
        )
    return codes.clip(min=0), np.all(codes >= 0, axis=1)


def _codes_of_matrix(path: Path) -> np.ndarray:
    try:
        codes = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{path}: not a .npy matrix of numbers ({error})") from error
    if not np.issubdtype(codes.dtype, np.integer):
        raise InputError(f"{path}: holds {codes.dtype}; expected whole numbers, one for each patch")
    return codes.astype(np.int64)


def _codes_of_table(path: Path, item_ids: pl.Series) -> np.ndarray:
    table = read_table(str(path), typed=["item_id"])
    check_columns(str(path), ["item_id", "codes"], table.columns)
    found = pl.DataFrame({"item_id": item_ids}).join(
        table.select(pl.col("item_id").cast(item_ids.dtype), "codes").unique("item_id"),
        on="item_id",
        how="left",
        maintain_order="left",
    )["codes"]
    lengths = found.drop_nulls().list.len()
    if not len(lengths) or lengths.n_unique() > 1:
        raise InputError(f"{path}: expected lists of one length for some of the items in 'codes'")
    codes = np.full((len(found), lengths[0]), -1, np.int64)
    codes[found.is_not_null().to_numpy()] = np.stack(found.drop_nulls().to_list())
    return codes
