"""From a raw log to clean interactions: columns checked, ids matched, what is dropped counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from .config import InteractionsConfig
from .errors import InputError, did_you_mean
from .splits import SPLITS

SPLIT_NAMES = {
    "train": 0, "validation": 1, "valid": 1, "val": 1, "dev": 1, "test": 2,
    "0": 0, "1": 1, "2": 2,  # MMRec's x_label
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class CleanLog:
    """Interactions sorted by (user, item), as rows of `user_ids` and `item_ids`."""

    user_ids: pl.Series  # ascending; all have interactions
    item_ids: pl.Series  # catalogue order, or the log's ids in ascending order without a catalogue
    user_idx: np.ndarray  # (n,) int64
    item_idx: np.ndarray  # (n,) int64
    times: np.ndarray | None  # (n,) int64 or float64
    labels: np.ndarray | None  # (n,) int8, positions in SPLITS; None: no split column
    report: dict[str, int]  # rows read, dropped by reason, kept


def clean(log: pl.DataFrame, catalog_ids: pl.Series | None, config: InteractionsConfig) -> CleanLog:
    """Apply, in this order: unknown items, rating threshold, duplicates (the earliest stays), k-core.

    Item ids that are integers on one side and strings on the other match as strings. Raises InputError for
    missing columns, null ids, ratings or times, unknown items without `drop_unknown`, and when nothing is
    left. A pair that stands in two splits of a split column is no duplicate but a leak, and is left for
    `check_no_leak`.
    """
    table = used_columns(log, config)
    report = {"rows": len(table)}
    if catalog_ids is not None:
        table = _match_catalog(table, catalog_ids, config.drop_unknown)
    report["unknown_items"] = report["rows"] - len(table)
    n = len(table)
    if "rating" in table.columns:
        table = table.filter(pl.col("rating") >= config.min_rating).drop("rating")
    report["below_rating"], n = n - len(table), len(table)
    user_ids, table = _index(table, "user")
    item_ids = catalog_ids
    if item_ids is None:
        item_ids, table = _index(table, "item")
    table = _drop_duplicates(table)
    report["duplicates"], n = n - len(table), len(table)
    table = _k_core(table, config.k_core)
    report["k_core_removed"], report["kept"] = n - len(table), len(table)
    if not len(table):
        raise InputError(_nothing_left(report))
    user_ids, table = _compact(table, "user", user_ids)
    if catalog_ids is None:
        item_ids, table = _compact(table, "item", item_ids)
    columns = {name: table[name].to_numpy() for name in table.columns}
    return CleanLog(
        user_ids.rename(config.user_id),
        item_ids.rename(config.item_id),
        columns["user_idx"],
        columns["item_idx"],
        columns.get("time"),
        columns.get("label"),
        report,
    )


def used_columns(log: pl.DataFrame, config: InteractionsConfig) -> pl.DataFrame:
    """The columns that matter, checked: user, item and, where there are any, time, rating, label."""
    if not len(log):
        raise InputError("interactions: the log is empty; expected at least one row")
    wanted = {"user": ("user_id", config.user_id), "item": ("item_id", config.item_id)}
    if config.timestamp is not None or "timestamp" in log.columns:
        wanted["time"] = ("timestamp", config.timestamp or "timestamp")
    if config.rating is not None or config.min_rating is not None:
        wanted["rating"] = ("rating", config.rating or "rating")
    if config.split == "column":
        wanted["label"] = ("split_column", config.split_column)
    missing = [(key, name) for key, name in wanted.values() if name not in log.columns]
    if missing:
        problems = [
            f"no column '{name}'{did_you_mean(name, log.columns)} for interactions.{key}"
            for key, name in missing
        ]
        raise InputError(
            f"interactions: {'; '.join(problems)}. The columns are {', '.join(map(repr, log.columns))}."
        )
    found = {role: log[name] for role, (_, name) in wanted.items()}
    used = {
        role: series for role, series in found.items() if role != "rating" or config.min_rating is not None
    }
    _refuse_nulls(used)
    read = {"user": _ids, "item": _ids, "time": _times, "rating": _ratings, "label": _labels}
    return pl.DataFrame({role: read[role](series) for role, series in used.items()})


def _refuse_nulls(used: dict[str, pl.Series]) -> None:
    counts = {s.name: s.null_count() + (s.is_nan().sum() if s.dtype.is_float() else 0) for s in used.values()}
    bad = [f"{count} in '{name}'" for name, count in counts.items() if count]
    if bad:
        rows = len(next(iter(used.values())))
        raise InputError(
            f"interactions: missing values in {rows} rows: {', '.join(bad)}. Fill or remove them."
        )


def _kind(ids: pl.Series) -> str:
    if ids.dtype.is_integer():
        return "integers"
    return "strings" if ids.dtype == pl.String else str(ids.dtype)


def _ids(ids: pl.Series) -> pl.Series:
    if isinstance(ids.dtype, pl.Categorical | pl.Enum):
        return ids.cast(pl.String)
    if _kind(ids) not in ("integers", "strings"):
        raise InputError(
            f"interactions: '{ids.name}' holds {ids.dtype} (first: {_first(ids)}); "
            "expected integers or strings"
        )
    return ids


def _first(values: pl.Series) -> str:
    return ", ".join(map(repr, values.head(1)))


def _times(times: pl.Series) -> pl.Series:
    """Numbers that grow with time: numbers as they are, dates and datetimes in their own unit."""
    if times.dtype.is_integer() or times.dtype.is_float():
        return times.cast(pl.Int64 if times.dtype.is_integer() else pl.Float64)
    if times.dtype == pl.String:
        parsed = _parse_times(times)
        bad = times.filter(parsed.is_null())
        if len(bad):
            raise InputError(
                f"interactions: {len(bad)} of {len(times)} values of '{times.name}' are no ISO 8601 times "
                f"(first: {bad[0]!r}). Write seconds as numbers, or 2024-01-31T12:00:00."
            )
        times = parsed
    if times.dtype == pl.Date or isinstance(times.dtype, pl.Datetime):
        return times.to_physical().cast(pl.Int64)
    raise InputError(
        f"interactions: '{times.name}' holds {times.dtype}; expected numbers, dates, datetimes or "
        "ISO 8601 strings"
    )


def _parse_times(times: pl.Series) -> pl.Series:
    """Datetimes, null where a string is none; the format is inferred from the strings."""
    try:
        return times.str.to_datetime(strict=False, time_unit="us")
    except pl.exceptions.ComputeError:  # no format fits
        return pl.Series(times.name, [None] * len(times), dtype=pl.Datetime)


def _ratings(ratings: pl.Series) -> pl.Series:
    if not ratings.dtype.is_numeric():
        raise InputError(
            f"interactions: '{ratings.name}' holds {ratings.dtype} (first: {_first(ratings)}); expected "
            "numbers, because interactions.min_rating is set"
        )
    return ratings.cast(pl.Float64)


def _labels(names: pl.Series) -> pl.Series:
    names = names.cast(pl.String).str.strip_chars().str.to_lowercase()
    unknown = names.filter(~names.is_in(list(SPLIT_NAMES))).unique().sort().to_list()
    if unknown:
        raise InputError(
            f"interactions: the split column '{names.name}' holds {', '.join(map(repr, unknown[:5]))}"
            f"{' and others' if len(unknown) > 5 else ''}; expected {', '.join(SPLITS)} "
            "(also valid, val, dev) or 0, 1, 2"
        )
    return names.replace_strict(SPLIT_NAMES, return_dtype=pl.Int8)


def _match_catalog(table: pl.DataFrame, catalog_ids: pl.Series, drop_unknown: bool) -> pl.DataFrame:
    """Add item_idx, the row in the catalogue; rows with unknown items are dropped or refused."""
    items, known = table["item"], _ids(catalog_ids)
    catalog = known
    if items.dtype != known.dtype:
        # Ids of text files become integers where all of a file's ids are, so the two files may differ.
        # Integers of two widths meet in 128 bits.
        common = pl.Int128 if _kind(items) == _kind(known) else pl.String
        table, catalog = table.with_columns(pl.col("item").cast(common)), known.cast(common)
    rows = pl.DataFrame({"item": catalog, "item_idx": np.arange(len(catalog))})
    table = table.join(rows, on="item", how="left", maintain_order="left")
    unknown = table.filter(pl.col("item_idx").is_null())["item"]
    if len(unknown) == len(table) and _kind(items) != _kind(known):
        raise InputError(
            f"item ids are {_kind(items)} in the interactions (first: {_first(items)}) but {_kind(known)} in "
            f"the catalogue (first: {_first(known)}), and none matches. Write both alike."
        )
    if len(unknown) and not drop_unknown:
        ids = unknown.unique(maintain_order=True)
        raise InputError(
            f"{len(ids)} items of the interactions ({len(unknown)} of {len(table)} rows) are not in the "
            f"catalogue (first: {', '.join(map(repr, ids[:5]))}). Add them to the catalogue, or pass "
            "--drop-unknown."
        )
    return table.drop_nulls("item_idx").drop("item")


def _index(table: pl.DataFrame, role: str) -> tuple[pl.Series, pl.DataFrame]:
    """The ascending ids of a column, and the table with the id replaced by its row in them."""
    ids = table[role].unique().sort()
    rows = pl.DataFrame({role: ids, f"{role}_idx": np.arange(len(ids))})
    return ids, table.join(rows, on=role, how="left", maintain_order="left").drop(role)


def _compact(table: pl.DataFrame, role: str, ids: pl.Series) -> tuple[pl.Series, pl.DataFrame]:
    """Without the ids that no longer have interactions."""
    rows = table[f"{role}_idx"].to_numpy()
    used = np.bincount(rows, minlength=len(ids)) > 0
    return ids.filter(pl.Series(used)), table.with_columns(
        pl.Series(f"{role}_idx", (np.cumsum(used) - 1)[rows])
    )


def _drop_duplicates(table: pl.DataFrame) -> pl.DataFrame:
    """Sorted by (user, item), the oldest row of each pair; without times the first row of the log."""
    keys = [name for name in ("user_idx", "item_idx", "label") if name in table.columns]
    table = table.sort(*keys, *(["time"] if "time" in table.columns else []), maintain_order=True)
    first = pl.any_horizontal(pl.col(key) != pl.col(key).shift(1) for key in keys)
    return table.filter(first.fill_null(True))


def _k_core(table: pl.DataFrame, k: int) -> pl.DataFrame:
    """The largest part in which every user and every item has at least k interactions."""
    users, items = table["user_idx"].to_numpy(), table["item_idx"].to_numpy()
    rows = np.arange(len(users))
    while len(rows):
        enough = np.bincount(users[rows])[users[rows]] >= k
        enough &= np.bincount(items[rows])[items[rows]] >= k
        if enough.all():
            break
        rows = rows[enough]
    return table[rows] if len(rows) < len(table) else table


def _nothing_left(report: dict[str, int]) -> str:
    dropped = ", ".join(f"{name} {count}" for name, count in report.items() if count and name != "rows")
    return (
        f"interactions: none of {report['rows']} rows is left ({dropped}). "
        "Loosen interactions.min_rating or k_core, or check the log."
    )
