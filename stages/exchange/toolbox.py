"""The layout of the MMRec toolbox: `.inter` with `x_label`, `image_feat.npy`, `text_feat.npy`, id mappings.

Users and items are numbered from 0 there, and row i of the features is item i.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from ...features.errors import InputError
from ...features.tables import check_columns, numeric
from ...recsys.modalities import is_image_view
from ...recsys.splits import SPLITS
from ..foreign import open_foreign
from .folder import ImportFolder
from .names import ExportFormat, ImportFormat
from .notes import Notes, read_notes
from .run_data import RunData
from .source import Source
from .text import read_text, seconds, typed_ids, write_text

_USER, _ITEM, _LABEL = "userID", "itemID", "x_label"
_USERS, _ITEMS = "u_id_mapping.csv", "i_id_mapping.csv"
_FEATURES = "_feat.npy"


def read(source: Source, target: ImportFolder) -> None:
    """Log, items and features; ids are the original ones where the mappings are there, else the numbers."""
    path = source.set_file("log", ".inter")
    notes = read_notes(source.folder, ImportFormat.toolbox)
    table = read_text(path, [_USER, _ITEM])
    users, items = (_numbers(path, table[name]) for name in (_USER, _ITEM))
    files = {notes.view(file.name.removesuffix(_FEATURES)): file for file in source.find(f"*{_FEATURES}")}
    matrices = {view: open_foreign(view, file) for view, file in files.items()}
    item_map = _mapping(source.folder / _ITEMS, _ITEM, notes.item_id)
    most = [_count(items), *map(len, matrices.values()), *([len(item_map)] if item_map is not None else [])]
    for view, matrix in matrices.items():
        if len(matrix) < max(most):
            raise InputError(
                f"{files[view]}: {len(matrix)} rows for {max(most)} items; row i must hold the features of "
                "item i"
            )
    user_ids = _ids(source.folder / _USERS, _mapping(source.folder / _USERS, _USER, notes.user_id), users)
    all_items = pl.Series(np.arange(max(most)))
    item_ids = _ids(source.folder / _ITEMS, item_map, all_items)
    log = pl.DataFrame({"user_id": user_ids, "item_id": item_ids.gather(items)})
    known = [name for name in ("rating", "timestamp") if name in table.columns]
    log = log.with_columns(numeric(table[name]) for name in known)
    if _LABEL in table.columns:
        log = log.with_columns(_splits(path, table[_LABEL]))
    target.write_log([log])
    if matrices:
        target.write_items([pl.DataFrame({"item_id": item_ids})])
    for view, matrix in matrices.items():
        absent = _missed(source, files[view].name.removesuffix(_FEATURES))
        present = np.setdiff1d(np.arange(len(matrix)), absent)
        if len(present) == len(matrix):
            target.write_features(view, matrix)
        else:
            target.write_features(view, matrix[present], item_ids.gather(present))


def write(run: RunData, folder: Path, name: str, chosen: Mapping[str, str]) -> Notes:
    """The run for the toolbox: `chosen` says which view is its `image` and which its `text`, by default the
    first ones that look so.

    It counts items by the largest number in the log, so the last item must have an interaction: items at the
    end that nobody touched come first. Rows of items without a view hold the mean, and are listed.
    """
    log, user_ids = run.log, run.dataset.user_ids
    item_ids = _last_is_touched(run.item_ids, log["item_id"])
    known = [column for column in ("rating", "timestamp") if column in log.columns]
    table = pl.DataFrame(
        {
            _USER: _numbered(log["user_id"], user_ids),
            _ITEM: _numbered(log["item_id"], item_ids),
            **{column: seconds(log[column]) for column in known},
            _LABEL: log["split"].replace_strict({split: label for label, split in enumerate(SPLITS)}),
        }
    )
    write_text(folder / f"{name}.inter", table.columns, table)
    for file, number, original, ids in (
        (_USERS, _USER, "user_id", user_ids),
        (_ITEMS, _ITEM, "item_id", item_ids),
    ):
        mapping = pl.DataFrame({original: ids, number: np.arange(len(ids))})
        write_text(folder / file, mapping.columns, mapping)
    names = run.named_views(chosen or _usual_names(run.views))
    for called, view in names.items():
        _write_features(run, folder, called, view, item_ids)
    return run.notes(ExportFormat.toolbox, names)


def _usual_names(views: list[str]) -> dict[str, str]:
    """The first view of images as `image`, the first other one as `text`, the rest as they are called."""
    image = next((view for view in views if is_image_view(view)), None)
    texts = [view for view in views if view.startswith("text")] or [v for v in views if not is_image_view(v)]
    text = next((view for view in texts if view != image), None)
    usual = {name: view for name, view in (("image", image), ("text", text)) if view is not None}
    return usual | {view: view for view in views if view not in usual.values()}


def _numbers(path: Path, column: pl.Series) -> pl.Series:
    numbers = column.cast(pl.Int64, strict=False)
    bad = column.filter((numbers < 0).fill_null(True))
    if len(bad):
        raise InputError(
            f"{path}: {column.name} holds {bad[0]!r}; expected numbers from 0, which the mappings "
            f"{_USERS} and {_ITEMS} lead to the original ids"
        )
    return numbers


def _count(numbers: pl.Series) -> int:
    return int(numbers.to_numpy().max(initial=-1)) + 1


def _mapping(path: Path, number: str, kind: str | None) -> pl.Series | None:
    """The original id of every number, null where the file skips one; None without a file."""
    if not path.is_file():
        return None
    table = read_text(path, [number])
    others = [name for name in table.columns if name != number]
    check_columns(str(path), [] if others else ["a column of the original ids"], table.columns)
    numbers = _numbers(path, table[number])
    ids = typed_ids([table[others[0]]], kind)[0]
    known = pl.DataFrame({"number": numbers, "id": ids})
    every = pl.DataFrame({"number": np.arange(_count(numbers))})
    return every.join(known, on="number", how="left", maintain_order="left")["id"]


def _ids(path: Path, mapping: pl.Series | None, numbers: pl.Series) -> pl.Series:
    """What the numbers stand for; InputError for one that the mapping lacks."""
    if mapping is None:
        return numbers
    outside = numbers.filter(numbers >= len(mapping))
    ids = mapping.gather(numbers) if not len(outside) else pl.Series([None])
    if ids.null_count():
        first = outside[0] if len(outside) else numbers.filter(ids.is_null())[0]
        raise InputError(f"{path}: no original id for number {first}; complete the file or remove it")
    return ids


def _splits(path: Path, labels: pl.Series) -> pl.Series:
    unknown = labels.filter(~labels.is_in(["0", "1", "2"]).fill_null(False))
    if len(unknown):
        raise InputError(
            f"{path}: {_LABEL} holds {unknown[0]!r}; expected 0 (train), 1 (validation), 2 (test)"
        )
    return labels.replace_strict({str(label): split for label, split in enumerate(SPLITS)}).alias("split")


def _missed_name(called: str) -> str:
    return f"missed_{'img' if called == 'image' else called}_itemIDs.csv"


def _missed(source: Source, called: str) -> np.ndarray:
    """The items whose row of features is a filler."""
    path = source.folder / _missed_name(called)
    if not path.is_file():
        return np.empty(0, np.int64)
    table = read_text(path)
    if _ITEM not in table.columns:  # a list without a header, whose first number the reader took for one
        table = pl.DataFrame({_ITEM: [table.columns[0], *table[table.columns[0]]]})
    return _numbers(path, table[_ITEM]).to_numpy()


def _last_is_touched(item_ids: pl.Series, touched: pl.Series) -> pl.Series:
    has = item_ids.is_in(touched.unique().implode()).to_numpy()
    end = int(np.flatnonzero(has).max()) + 1
    return pl.concat([item_ids[end:], item_ids[:end]])


def _numbered(column: pl.Series, ids: pl.Series) -> pl.Series:
    numbers = pl.DataFrame({"id": ids, "number": np.arange(len(ids))})
    return column.alias("id").to_frame().join(numbers, on="id", how="left", maintain_order="left")["number"]


def _write_features(run: RunData, folder: Path, called: str, view: str, item_ids: pl.Series) -> None:
    assert run.store is not None  # it has this view
    total, count = np.zeros(run.store.dim(view)), 0
    for values, present in run.blocks(view, item_ids):
        total += values[present].sum(axis=0, dtype=np.float64)
        count += int(present.sum())
    mean = (total / max(count, 1)).astype(np.float32)
    path, missed, start = folder / f"{called}{_FEATURES}", [], 0
    matrix = np.lib.format.open_memmap(path, "w+", np.float32, (len(item_ids), len(mean)))
    for values, present in run.blocks(view, item_ids):
        matrix[start : start + len(values)] = np.where(present[:, None], values, mean)
        missed += (start + np.flatnonzero(~present)).tolist()
        start += len(values)
    matrix.flush()
    if missed:
        write_text(folder / _missed_name(called), [_ITEM], pl.DataFrame({_ITEM: missed}))
