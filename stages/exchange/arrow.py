"""Parquet, or Arrow's own files: ids and vectors in the same row, for every tool of the Arrow family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ...features.errors import InputError, first_line
from ...features.tables import check_columns
from .folder import ImportFolder
from .names import ExportFormat, ImportFormat
from .notes import Notes, read_notes
from .run_data import BLOCK, RunData
from .source import Source

Opener: TypeAlias = Callable[[Path, pa.Schema], AbstractContextManager[Any]]  # of what has write_table

VECTOR = "vector"  # of the model
_LOG = ("user_id", "item_id", "rating", "timestamp", "split")


def read_parquet(source: Source, target: ImportFolder) -> None:
    """As `_read` says, from Parquet."""
    _read(source, target, ImportFormat.parquet, pl.read_parquet)


def read_arrow(source: Source, target: ImportFolder) -> None:
    """As `_read` says, from Arrow's files."""
    _read(source, target, ImportFormat.arrow, pl.read_ipc)


def write_parquet(run: RunData, folder: Path, name: str, chosen: Mapping[str, str]) -> Notes:
    """As `_write` says, in Parquet."""
    return _write(run, folder, chosen, ExportFormat.parquet, _open_parquet)


def write_arrow(run: RunData, folder: Path, name: str, chosen: Mapping[str, str]) -> Notes:
    """As `_write` says, in Arrow's file format (Feather 2), which can be memory-mapped."""
    return _write(run, folder, chosen, ExportFormat.arrow, _open_arrow)


def _write(
    run: RunData, folder: Path, chosen: Mapping[str, str], kind: ExportFormat, opener: Opener
) -> Notes:
    """items: item_id, one column per view (float16, null where an item lacks it) and, of a model, `vector`
    (float32); users: user_id and `vector`, or `indices` and `values` of a history; interactions with splits.
    """
    names = run.named_views(chosen)
    if VECTOR in names and run.bundle is not None:
        raise InputError(
            f"a view cannot be called '{VECTOR}', as the model's own are; pass --view NAME={VECTOR}"
        )
    _save(folder / f"items.{kind}", _items(run, names), opener)
    if run.bundle is not None:
        users = pq.read_table(run.folder / "model" / "users.parquet").replace_schema_metadata()
        _save(folder / f"users.{kind}", iter([users]), opener)
    if run.interactions is not None:
        _save(folder / f"interactions.{kind}", iter([run.log.to_arrow()]), opener)
    return run.notes(kind, names)


def _read(
    source: Source, target: ImportFolder, kind: ImportFormat, read: Callable[..., pl.DataFrame]
) -> None:
    """interactions with user_id and item_id and, where known, rating, timestamp, split; items with item_id,
    any fields, and a column of lists of floats per view, all of one length or null."""
    notes = read_notes(source.folder, kind)
    paths = {name: source.need(name, f"{name}.{kind}") for name in ("interactions", "items")}
    try:
        log, items = (read(path) for path in paths.values())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{source.folder}: not readable as {kind}: {first_line(error)}") from error
    for table, wanted in ((log, _LOG[:2]), (items, _LOG[1:2])):
        check_columns(str(source.folder), wanted, table.columns)
    target.write_log([log])
    lists = [column.name for column in items if _is_vector(column.dtype)]
    views = lists
    if notes.item_id is not None:  # an export of ours, which a model may have added to
        views = [name for name in lists if name in notes.views]
    fields = items.drop(lists)
    texts = [column.name for column in fields if column.dtype == pl.String and column.name != "item_id"]
    target.write_items([fields], texts=texts)
    for name in views:
        column = items[name]
        present = column.is_not_null()
        lengths = set(column.cast(pl.List(pl.Float32)).list.len().drop_nulls())
        if len(lengths) > 1:
            raise InputError(
                f"{paths['items']}: vectors of '{name}' have {min(lengths)} to {max(lengths)} values"
            )
        if lengths:
            matrix = column.drop_nulls().explode().to_numpy().reshape(-1, *lengths)
            target.write_features(notes.view(name), matrix, items["item_id"].filter(present))


def _is_vector(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.List | pl.Array) and kind.inner.is_float()


def _items(run: RunData, names: Mapping[str, str]) -> Iterator[pa.Table]:
    vectors = None if run.bundle is None else run.bundle.vectors.items
    views = [list(run.blocks(view)) for view in names.values()]  # of a memory map
    for start in range(0, len(run.item_ids), BLOCK):
        part = slice(start, start + BLOCK)
        columns = {"item_id": run.item_ids[part].to_arrow()}
        for name, blocks in zip(names, views, strict=True):
            values, present = blocks[start // BLOCK]
            columns[name] = _vectors(values, pa.array(~present))
        if vectors is not None:
            columns[VECTOR] = _vectors(vectors[part])
        yield pa.table(columns)


def _vectors(values: np.ndarray, absent: pa.Array | None = None) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=absent)


def _save(path: Path, tables: Iterator[pa.Table], opener: Opener) -> None:
    first = next(tables)
    with opener(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _open_parquet(path: Path, schema: pa.Schema) -> AbstractContextManager[Any]:
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False)


def _open_arrow(path: Path, schema: pa.Schema) -> AbstractContextManager[Any]:
    return pa.ipc.new_file(str(path), schema)
