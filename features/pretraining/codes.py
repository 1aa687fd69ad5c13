"""Visual codes of a BEiT-2 style tokenizer, computed elsewhere: what hidden patches are predicted as."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

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
    return codes.clip(min=0).astype(np.int64), np.all(codes >= 0, axis=1)


def _codes_of_matrix(path: Path) -> np.ndarray:
    try:
        codes = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: not a .npy matrix of numbers ({error})") from error
    if not isinstance(codes, np.ndarray):
        raise InputError(f"{path}: an archive of several arrays; save the one of the codes as .npy")
    if not np.issubdtype(codes.dtype, np.integer):
        raise InputError(f"{path}: holds {codes.dtype}; expected whole numbers, one for each patch")
    return codes


def _codes_of_table(path: Path, item_ids: pl.Series) -> np.ndarray:
    table = read_table(str(path), typed=["item_id"])
    check_columns(str(path), ["item_id", "codes"], table.columns)
    dtype = table.schema["codes"]
    if not isinstance(dtype, pl.List | pl.Array) or not dtype.inner.is_integer():
        raise InputError(
            f"{path}: 'codes' holds {dtype}; expected lists of whole numbers, one for each patch"
        )
    table = table.select(
        pl.col("item_id").cast(item_ids.dtype, strict=False), pl.col("codes").cast(pl.List(dtype.inner))
    ).drop_nulls()
    repeated = table["item_id"].filter(table["item_id"].is_duplicated())
    if len(repeated):
        raise InputError(f"{path}: several rows for item {repeated[0]!r}; expected one for each item")
    found = pl.DataFrame({"item_id": item_ids}).join(table, on="item_id", how="left", maintain_order="left")[
        "codes"
    ]
    known = found.drop_nulls()
    lengths = known.list.len().unique().sort().to_list()
    if not lengths:
        raise InputError(
            f"{path}: codes of none of the {len(item_ids)} items; expected the catalogue's ids in 'item_id', "
            f"such as {item_ids[0]!r}"
        )
    if len(lengths) > 1 or known.explode().has_nulls():
        listed = ", ".join(map(str, lengths))
        raise InputError(
            f"{path}: lists of {listed} codes, or with gaps in them; expected one for each patch"
        )
    codes = np.full((len(found), lengths[0]), -1, np.int64)
    codes[found.is_not_null().to_numpy()] = np.stack(known.to_list())
    return codes
