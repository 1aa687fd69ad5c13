"""Triples as Cornac reads them: user, item, rating and perhaps time, without header; features and their ids.

Splits are files of their own. `image.npy` holds rows of the items in `image.ids.txt`, one id a line: what
Cornac's modalities take as `features` and `ids`.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from ...features.errors import InputError, first_line
from ...features.tables import numeric
from ...recsys.splits import SPLITS
from ..foreign import open_foreign
from .folder import ImportFolder
from .names import ExportFormat, ImportFormat
from .notes import Notes, read_notes
from .run_data import RunData
from .source import Source
from .streams import separated, text_lines
from .text import seconds, typed_ids, write_plain

_KINDS = ("txt", "tsv", "csv", "uirt", "uir", "dat")
_WHOLE = ("uirt", "uir", "ui", "ratings", "rating", "interactions", "data")
_SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_IDS = (".ids.txt", "_ids.txt", "_item_ids.txt", ".ids.npy", "_ids.npy")
_CATALOG = "item_ids.txt"
_COMMON_IDS = (_CATALOG, "item_ids.npy", "ids.txt", "ids.npy")


def read(source: Source, target: ImportFolder) -> None:
    """Log and features; items are those of the log, of the features and of item_ids.txt."""
    notes = read_notes(source.folder, ImportFormat.cornac)
    log = _log(source)
    if notes.columns is not None and "rating" not in notes.columns:
        log = log.drop("rating", strict=False)  # the ones that an export puts where there are no ratings
    files = {notes.view(path.stem): path for path in source.find("*.npy") if not path.stem.endswith("ids")}
    lists = [_listed(source, path) for path in files.values()]
    catalog = source.first(_CATALOG)
    if catalog is not None:
        lists.append(_ids(catalog))
    users = typed_ids([log["user_id"]], notes.user_id)[0]
    items, *typed = typed_ids([log["item_id"], *lists], notes.item_id)
    target.write_log([log.with_columns(users.alias("user_id"), items.alias("item_id"))])
    if typed:
        known = pl.concat([ids.rename("item_id") for ids in reversed(typed)])
        target.write_items([known.unique(maintain_order=True).to_frame()])
    for (view, path), ids in zip(files.items(), typed, strict=False):  # the catalogue comes last
        matrix = open_foreign(view, path)
        if len(matrix) != len(ids):
            raise InputError(
                f"{path}: {len(matrix)} rows for {len(ids)} ids; every row needs the id of its item"
            )
        target.write_features(view, matrix, ids)


def write(run: RunData, folder: Path, name: str, chosen: Mapping[str, str]) -> Notes:
    """train.tsv, val.tsv and test.tsv of (user, item, rating[, time]); features of the items that have them.

    Where the log has no ratings, they are 1. All ids of the catalogue are in item_ids.txt.
    """
    log = run.log
    if "rating" not in log.columns:
        log = log.with_columns(pl.lit(1).alias("rating"))
    if "timestamp" in log.columns:
        log = log.with_columns(seconds(log["timestamp"]))
    for split in SPLITS:
        part = log.filter(pl.col("split") == split)
        write_plain(folder / f"{_SPLITS[split][0]}.tsv", part.select(c for c in _COLUMNS if c in log.columns))
    write_plain(folder / _CATALOG, run.item_ids.to_frame())
    names = run.named_views(chosen)
    for called, view in names.items():
        assert run.store is not None  # it has views
        present = np.concatenate([mask for _, mask in run.blocks(view)])
        shape = (int(present.sum()), run.store.dim(view))
        if not shape[0]:
            continue
        matrix, row = np.lib.format.open_memmap(folder / f"{called}.npy", "w+", np.float32, shape), 0
        for values, mask in run.blocks(view):
            filled = values[mask]
            matrix[row : row + len(filled)] = filled
            row += len(filled)
        matrix.flush()
        write_plain(folder / f"{called}.ids.txt", run.item_ids.filter(pl.Series(present)).to_frame())
    return run.notes(ExportFormat.cornac, {called: view for called, view in names.items() if called != view})


def _listed(source: Source, path: Path) -> pl.Series:
    """The ids of the rows of a matrix, as text."""
    names = [*(path.stem + ending for ending in _IDS), *_COMMON_IDS]
    return _ids(source.need(f"ids for the rows of {path.name}", *map(glob.escape, names)))


def _ids(path: Path) -> pl.Series:
    if path.suffix != ".npy":
        return pl.Series(text_lines(path), dtype=pl.String)
    try:
        ids = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not a .npy of ids ({first_line(error)}); write them as text") from error
    return pl.Series(ids.reshape(-1)).cast(pl.String)


def _log(source: Source) -> pl.DataFrame:
    """The log as text ids and numbers; with a split where there are files of several."""
    found = {
        split: source.first(*(f"{name}.{kind}" for name in names for kind in _KINDS))
        for split, names in _SPLITS.items()
    }
    if found["train"] is None:
        path = source.first(*(f"{name}.{kind}" for name in _WHOLE for kind in _KINDS))
        if path is None:
            raise source.lacks("triples", [f"{name}.*" for name in ("train", *_WHOLE)])
        log = _triples(path)
    else:
        splits = [(path, split) for split, path in found.items() if path is not None]
        parts = [_triples(path).with_columns(pl.lit(split).alias("split")) for path, split in splits]
        log = pl.concat(parts, how="diagonal")
    return log.with_columns(numeric(log[name]) for name in ("rating", "timestamp") if name in log.columns)


def _triples(path: Path) -> pl.DataFrame:
    lines = text_lines(path)
    if not lines:  # a split may be empty
        return pl.DataFrame(schema=dict.fromkeys(_COLUMNS[:2], pl.String))
    separator = next((mark for mark in ("\t", "::", ",", " ") if mark in lines[0]), "\t")
    width = lines[0].count(separator) + 1
    if not 2 <= width <= len(_COLUMNS):
        raise InputError(
            f"{path}: {width} fields in line 1; expected {', '.join(_COLUMNS)}, without a header"
        )
    return separated(path, lines, separator, _COLUMNS[:width])
