"""Which items may be in a list: what people allow, deny and ask for by fields of the catalogue."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ...features.errors import InputError, quoted
from ...features.tables import did_you_mean
from ...recsys.ranking import Csr
from .ids import IdMap, named, pair_matrix, read_id_table

log = logging.getLogger(__name__)

_CONDITION = re.compile(r"(?P<column>[^=!]+?)\s*(?P<operator>!?=)\s*(?P<value>.*)", re.DOTALL)
_SHOWN = 5  # values of a column that an error names


@dataclass(frozen=True, slots=True)
class Filters:
    """None where nothing is asked for."""

    candidates: np.ndarray | None = None  # (I,) bool: the items that may be in any list
    allowed: Csr | None = None  # (U, I): the only items of each user
    denied: Csr | None = None  # (U, I): items that a user may not get


def read_filters(
    users: IdMap,
    items: IdMap,
    allow: Path | None,
    deny: Path | None,
    where: Sequence[str],
    catalog: pl.DataFrame | None,
) -> Filters:
    """The filters of these files and conditions. A file with a `user_id` is about these users' lists: only
    what is allowed to them, and nothing that is denied to them.

    Raises InputError for files without ids, for conditions that cannot be read, and where nothing is left.
    """
    masks, allowed, denied = [], None, None
    if allow is not None:
        found = _read(allow, users, items)
        if isinstance(found, np.ndarray):
            masks.append(found)
        else:
            allowed = found
        if not found.sum():
            raise InputError(f"{allow}: none of its items is in the model: no list would have an item")
    if deny is not None:
        found = _read(deny, users, items)
        if isinstance(found, np.ndarray):
            masks.append(~found)
        else:
            denied = found
    masks += [_matches(condition, items, catalog) for condition in where]
    candidates = np.logical_and.reduce(masks) if masks else None
    if candidates is not None and not candidates.any():
        raise InputError("the filters together leave no item of the model: no list would have one")
    return Filters(candidates, allowed, denied)


def _read(path: Path, users: IdMap, items: IdMap) -> np.ndarray | Csr:
    """The items of `path` as a mask (I,), or its pairs (U, I) where it names users."""
    table = read_id_table(path)
    rows = items.rows(table["item_id"])
    if (unknown := rows < 0).any():
        first = named(table["item_id"].filter(pl.Series(unknown)))
        log.warning(
            "%s: %d of %d items are not in the model (first: %s)", path, unknown.sum(), len(rows), first
        )
    if "user_id" in table.columns:
        return pair_matrix([table], users, items)[0]
    mask = np.zeros(len(items), bool)
    mask[rows[~unknown]] = True
    return mask


def _matches(condition: str, items: IdMap, catalog: pl.DataFrame | None) -> np.ndarray:
    """(I,) bool: the items for which `column = value` or `column != value` holds."""
    parsed = _CONDITION.fullmatch(condition.strip())
    if parsed is None:
        raise InputError(f"--where {quoted(condition)}: expected 'column = value' or 'column != value'")
    if catalog is None:
        raise InputError(f"--where {quoted(condition)}: there is no catalogue beside the model to look in")
    name, value = parsed["column"], _unquoted(parsed["value"])
    if name not in catalog.columns:
        known = ", ".join(map(quoted, catalog.columns))
        raise InputError(
            f"--where: no column {quoted(name)}{did_you_mean(name, catalog.columns)}; there are {known}"
        )
    equal = _equals(catalog[name], value, condition)
    if parsed["operator"] == "=" and not equal.any():
        raise InputError(f"--where {quoted(condition)}: no item has it; there are {_values(catalog[name])}")
    mask = np.zeros(len(items), bool)
    rows = items.rows(catalog["item_id"])
    mask[rows[rows >= 0]] = (equal if parsed["operator"] == "=" else ~equal)[rows >= 0]
    return mask


def _equals(column: pl.Series, value: str, condition: str) -> np.ndarray:
    """(n,) bool; a list equals what one of its entries does, a missing value nothing."""
    if isinstance(column.dtype, pl.List):
        rows = pl.DataFrame({"value": column}).with_row_index("row").explode("value")
        hits = rows.filter(pl.Series(_equals(rows["value"], value, condition)))["row"]
        equal = np.zeros(len(column), bool)
        equal[hits.to_numpy()] = True
        return equal
    if column.dtype == pl.Boolean:
        said = column.cast(pl.String) == value.lower()
    elif column.dtype.is_numeric():
        try:
            said = column.cast(pl.Float64) == float(value)
        except ValueError as error:
            raise InputError(
                f"--where {quoted(condition)}: the column holds numbers ({_values(column)}), which "
                f"{quoted(value)} is not"
            ) from error
    else:
        said = column.cast(pl.String) == value
    return said.fill_null(False).to_numpy()


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _values(column: pl.Series) -> str:
    """The most frequent values, for a message."""
    flat = column.explode() if isinstance(column.dtype, pl.List) else column
    common = flat.drop_nulls().cast(pl.String).value_counts(sort=True)[flat.name].head(_SHOWN)
    return ", ".join(quoted(value) for value in common) or "no values"
