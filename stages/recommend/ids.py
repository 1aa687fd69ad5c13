"""Ids that people give in files, matched with the ids of a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from ...features.errors import InputError, first_line, quoted
from ...features.tables import check_columns, read_table
from ...recsys.ranking import Csr

_NAMED = 3  # unknown ids that a message names


class IdMap:
    """Rows of ids. Integers on one side and strings on the other match by what they say."""

    def __init__(self, ids: pl.Series) -> None:
        self.ids = ids
        self._tables = {ids.dtype: pl.DataFrame({"id": ids}).with_row_index("row")}

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, wanted: pl.Series) -> np.ndarray:
        """(n,) int64 positions of the wanted ids, -1 for those that are not there."""
        if wanted.dtype != self.ids.dtype:
            wanted = wanted.cast(pl.String)
            self._tables.setdefault(
                pl.String(), self._tables[self.ids.dtype].with_columns(pl.col("id").cast(pl.String))
            )
        table = self._tables[wanted.dtype]
        found = pl.DataFrame({"id": wanted}).join(table, on="id", how="left", maintain_order="left")["row"]
        return found.cast(pl.Int64).fill_null(-1).to_numpy()


def read_id_table(path: Path, key: str = "item_id") -> pl.DataFrame:
    """The ids in `path` as a column `key`; where a table has both, `user_id` and `item_id`.

    A file that is not called like a table holds one id per line. A list of ids in one cell is a row for each.
    Raises FileNotFoundError, or InputError for a file without ids, without the column, or with missing ids.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected ids, one per line or in a table")
    if path.is_file() and path.suffix.lower() in ("", ".txt"):
        return pl.DataFrame({key: _lines(path)})
    table = read_table(str(path))
    check_columns(str(path), [key], table.columns)
    wanted = [name for name in ("user_id", "item_id") if name == key or name in table.columns]
    table = table.select(wanted)
    for name, dtype in table.schema.items():
        if isinstance(dtype, pl.List):
            table = table.explode(name)
        if dtype in (pl.Categorical, pl.Enum):
            table = table.with_columns(pl.col(name).cast(pl.String))
        if not (table[name].dtype.is_integer() or table[name].dtype == pl.String):
            raise InputError(f"{path}: '{name}' holds {table[name].dtype}; expected ids, integers or strings")
        if missing := table[name].null_count():
            raise InputError(f"{path}: {missing} of {len(table)} rows have no {name}; fill or remove them")
    return table


def _lines(path: Path) -> pl.Series:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as text ({first_line(error)}); one id per line") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise InputError(f"{path} has no ids; expected at least one, one per line")
    return pl.Series(ids, dtype=pl.String)


def known_rows(rows: np.ndarray, ids: pl.Series, what: str, path: Path) -> np.ndarray:
    """`rows` if all ids are known; else InputError that names the first of the others."""
    unknown = rows < 0
    if unknown.any():
        raise InputError(
            f"{path}: {unknown.sum():,} of {len(rows):,} {what} are not in the model "
            f"(first: {named(ids.filter(pl.Series(unknown)))})"
        )
    return rows


def named(ids: pl.Series) -> str:
    """The first few ids, for a message."""
    return ", ".join(quoted(str(value)) for value in ids.unique(maintain_order=True).head(_NAMED))


def pair_matrix(tables: Iterable[pl.DataFrame], users: IdMap, items: IdMap) -> tuple[Csr, int]:
    """(n_users, n_items) CSR with an entry for every pair of the tables (user_id, item_id), sorted, each
    once, and how many rows had an id that is not known."""
    parts, unknown = [], 0
    for table in tables:
        rows, columns = users.rows(table["user_id"]), items.rows(table["item_id"])
        known = (rows >= 0) & (columns >= 0)
        unknown += int((~known).sum())
        parts.append((rows[known].astype(np.int32), columns[known].astype(np.int32)))
    rows, columns = (
        np.concatenate(column) if parts else np.empty(0, np.int32)
        for column in (zip(*parts, strict=True) if parts else ((), ()))
    )
    return _matrix(rows, columns, (len(users), len(items))), unknown


def _matrix(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> Csr:
    matrix = sparse.csr_matrix((np.ones(len(rows), bool), (rows, columns)), shape=shape)
    matrix.sum_duplicates()
    return matrix
