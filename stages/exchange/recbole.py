"""RecBole's atomic files: `.inter`, `.item` and embeddings, tab-separated, with types in the header.

Types: `token` and `token_seq` are text, `float` a number, `float_seq` numbers between spaces.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ...features.errors import InputError
from ...features.tables import check_columns, numeric
from ...features.views import field_text
from ...recsys.splits import SPLITS
from .folder import ImportFolder
from .names import ExportFormat, ImportFormat
from .notes import Notes, read_notes
from .run_data import RunData
from .source import Source
from .text import append_text, read_text, seconds, typed_ids, write_header, write_text

log = logging.getLogger(__name__)

_TYPES = ("token", "token_seq", "float", "float_seq")
_ITEM_FILES = (".item", ".itememb")  # the latter: embeddings, whose ids have a name of their own
_ALIAS = "iid"
_SPLIT_NAMES = {"train": 0, "part1": 0, "valid": 1, "validation": 1, "part2": 1, "test": 2, "part3": 2}
_BLOCK = 2**12  # rows of vectors that are text at a time


@dataclass(frozen=True, slots=True)
class AtomicFile:
    """A file's columns by their plain names, as text, and their types."""

    path: Path
    table: pl.DataFrame
    types: dict[str, str]

    def of_type(self, *types: str) -> list[str]:
        return [name for name, kind in self.types.items() if kind in types]


def read(source: Source, target: ImportFolder) -> None:
    """Log, items with their fields, and vectors (of the type float_seq); users' fields have no use here."""
    logs = source.find("*.inter")
    if not logs:
        raise source.lacks("log", ["*.inter"])
    name = source.set_name("set", [file.name.split(".")[0] for file in logs])
    notes = read_notes(source.folder, ImportFormat.recbole)
    inter = _log(source, name)
    files = [_open(path, _ALIAS) for suffix in _ITEM_FILES for path in source.find(f"{name}{suffix}")]
    for file in files:
        check_columns(str(file.path), ["item_id"], file.table.columns)
    users = typed_ids([inter["user_id"]], notes.user_id)[0]
    items, *own = typed_ids([inter["item_id"], *(file.table["item_id"] for file in files)], notes.item_id)
    target.write_log([inter.with_columns(users.alias("user_id"), items.alias("item_id"))])
    if not files:
        return
    tables = [_fields(file, ids) for file, ids in zip(files, own, strict=True)]
    known = pl.concat(tables, how="diagonal")
    texts = [column for file in files for column in file.of_type("token_seq") if not {"{", "}"} & {*column}]
    target.write_items([known.unique("item_id", keep="first", maintain_order=True)], texts=texts)
    for file, ids in zip(files, own, strict=True):
        for column in file.of_type("float_seq"):
            vectors = _vectors(file, column)
            if vectors is not None:
                matrix, present = vectors
                target.write_features(notes.view(column), matrix, ids.filter(pl.Series(present)))


def write(run: RunData, folder: Path, name: str, chosen: Mapping[str, str]) -> Notes:
    """The splits as benchmark files, the catalogue as .item, the views as .itememb, and a config."""
    columns = {"user_id": "token", "item_id": "token"}
    columns |= {known: "float" for known in ("rating", "timestamp") if known in run.log.columns}
    table = run.log.with_columns(seconds(run.log[known]) for known in columns if known == "timestamp")
    header = [f"{column}:{kind}" for column, kind in columns.items()]
    for number, split in enumerate(SPLITS, start=1):
        part = table.filter(pl.col("split") == split).select(*columns)
        write_text(folder / f"{name}.part{number}.inter", header, part)
    names = run.named_views(chosen)
    fields = _texts(run.fields)
    types = {column: "token_seq" if of == pl.String else "float" for column, of in fields.schema.items()}
    write_text(
        folder / f"{name}.item",
        ["item_id:token", *(f"{column}:{kind}" for column, kind in types.items())],
        pl.DataFrame([run.item_ids.alias("item_id"), *fields]),
    )
    if names:
        _write_vectors(run, folder / f"{name}.itememb", names)
    config = _config(list(columns), ["item_id", *types], list(names))
    (folder / f"{name}.yaml").write_text(config, encoding="utf-8")
    return run.notes(ExportFormat.recbole, {called: view for called, view in names.items() if called != view})


def _log(source: Source, name: str) -> pl.DataFrame:
    """The log as text ids and numbers; with a split where it comes as benchmark files."""
    parts = source.find(f"{name}.*.inter")
    if parts:
        table = pl.concat([_part(path, name) for path in parts], how="diagonal")
    else:
        table = _interactions(source.need("log", f"{name}.inter"))
    known = [column for column in ("rating", "timestamp") if column in table.columns]
    return table.with_columns(numeric(table[column]) for column in known)


def _part(path: Path, name: str) -> pl.DataFrame:
    part = path.name.removeprefix(f"{name}.").partition(".inter")[0]
    if part not in _SPLIT_NAMES:
        known = ", ".join(f"{name}.{split}.inter" for split in _SPLIT_NAMES)
        raise InputError(f"{path}: which split is '{part}'? expected {known}")
    return _interactions(path).with_columns(pl.lit(SPLITS[_SPLIT_NAMES[part]]).alias("split"))


def _interactions(path: Path) -> pl.DataFrame:
    file = _open(path)
    check_columns(str(path), ["user_id", "item_id"], file.table.columns)
    return file.table.select(
        name for name in ("user_id", "item_id", "rating", "timestamp") if name in file.table.columns
    )


def _open(path: Path, alias: str | None = None) -> AtomicFile:
    table = read_text(path)
    types, names = {}, {}
    for column in table.columns:
        name, _, kind = column.rpartition(":")
        if kind not in _TYPES:
            raise InputError(
                f"{path}: the header names {column!r}; expected name:type, one of {', '.join(_TYPES)}"
            )
        names[column] = "item_id" if name == alias else name
        types[names[column]] = kind
    return AtomicFile(path, table.rename(names), types)


def _fields(file: AtomicFile, ids: pl.Series) -> pl.DataFrame:
    """The items of a file with all that is no vector."""
    kept = [name for name in file.of_type("token", "token_seq", "float") if name != "item_id"]
    numbers = file.of_type("float")
    columns = [numeric(file.table[name]) if name in numbers else file.table[name] for name in kept]
    return pl.DataFrame([ids.alias("item_id"), *columns])


def _vectors(file: AtomicFile, column: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The vectors that are there (n, d) float32, and which rows they are of; None where lengths differ."""
    texts = file.table[column].str.strip_chars()
    present = (texts.is_not_null() & (texts != "")).fill_null(False)
    cells = texts.filter(present)
    blocks, dims = [], set()
    for start in range(0, len(cells), _BLOCK):
        numbers = cells[start : start + _BLOCK].str.split(" ").cast(pl.List(pl.Float32), strict=False)
        dims |= set(numbers.list.len().unique())
        if len(dims) > 1 or numbers.explode().null_count():
            log.warning("%s: %s holds no vectors of one length, and is left out", file.path, column)
            return None
        blocks.append(numbers.explode().to_numpy().reshape(len(numbers), -1))
    return (np.concatenate(blocks), present.to_numpy()) if blocks else None


def _texts(fields: pl.DataFrame) -> pl.DataFrame:
    """Fields that a text file can hold: numbers, text, and lists as text; others are left out."""
    columns = []
    for column in fields:
        kind = column.dtype
        if isinstance(kind, pl.List | pl.Array):
            column = pl.Series(column.name, [field_text(value) for value in column], pl.String)
        elif isinstance(kind, pl.Categorical | pl.Enum | pl.Boolean | pl.Date | pl.Datetime):
            column = column.cast(pl.String)
        elif not (kind.is_numeric() or kind == pl.String):
            log.warning("the catalogue's column '%s' holds %s and is left out", column.name, kind)
            continue
        columns.append(column)
    return pl.DataFrame(columns)


def _write_vectors(run: RunData, path: Path, names: Mapping[str, str]) -> None:
    """One row per item, one column per view, empty where the item lacks it."""
    with path.open("wb") as file:
        write_header(file, [f"{_ALIAS}:token", *(f"{called}:float_seq" for called in names)])
        start = 0
        for blocks in zip(*(run.blocks(view, rows=_BLOCK) for view in names.values()), strict=True):
            ids = run.item_ids[start : start + len(blocks[0][0])]
            columns = [_as_text(called, *block) for called, block in zip(names, blocks, strict=True)]
            append_text(file, pl.DataFrame([ids, *columns]))
            start += len(ids)


def _as_text(name: str, values: np.ndarray, present: np.ndarray) -> pl.Series:
    numbers = pl.Series(name, values.astype(np.float32)).cast(pl.List(pl.String)).list.join(" ")
    return pl.select(pl.when(pl.Series(present)).then(numbers).alias(name)).to_series()


def _config(inter: list[str], item: list[str], views: list[str]) -> str:
    lines = [
        "# For RecBole: which files and fields to read. Its data_path is the folder above this one.",
        "benchmark_filename: [part1, part2, part3]",
        "load_col:",
        f"  inter: {json.dumps(inter)}",
        f"  item: {json.dumps(item)}",
    ]
    if views:
        lines += [
            f"  itememb: {json.dumps([_ALIAS, *views])}",
            "additional_feat_suffix: [itememb]",
            f"alias_of_item_id: [{_ALIAS}]",
            f"preload_weight: {json.dumps({_ALIAS: views[0]})}",
        ]
    return "\n".join(lines) + "\n"
