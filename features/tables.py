"""Tables read from CSV, TSV, JSONL or Parquet (a file, a folder, a glob, a URI) and written as Parquet."""

from __future__ import annotations

import difflib
import glob
import io
import lzma
import posixpath
import zlib
from collections.abc import Iterable, Sequence
from os import PathLike
from typing import cast

import fsspec
import polars as pl
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from .csv_tables import read_csv
from .errors import InputError, first_line, quoted
from .files import atomic_path
from .json_lines import read_jsonl
from .sources.policy import shown, without_secrets

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_UNREADABLE = (  # beside OSError and ValueError
    *(pl.exceptions.PolarsError, pl.exceptions.PanicException),
    *(EOFError, zlib.error, lzma.LZMAError),  # a compressed file that is cut off or damaged
)
_NAMED = 30  # columns that an error lists
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_INTEGER = r"^[+-]?(0|[1-9][0-9]*)$"  # no leading zero: "007" is a name, not seven
_NUMBER = r"^[+-]?(0|[1-9][0-9]*)?(\.[0-9]*([eE][+-]?[0-9]+)?|[eE][+-][0-9]+)?$"  # "1e5" may be a name


def read_table(
    source: str, columns: Sequence[str] | None = None, typed: Iterable[str] | None = None
) -> pl.DataFrame:
    """The rows of `source`, files in order of name; `columns` selects and orders the columns.

    CSV columns in `typed` (all of them when None) become integers or floats where every value of every file
    is one; the others stay text, letter for letter. Other formats keep their own types.
    Raises FileNotFoundError, or InputError for a source that is empty, unreadable or lacks a column.
    """
    files = list_files(source)
    try:
        tables = [_read_file(file, columns) for file in files]
        table = pl.concat(tables, how="diagonal_relaxed") if len(tables) > 1 else tables[0]
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{shown(source)}: the files do not fit together: {first_line(error)}") from error
    if table_format(files[0]) in ("csv", "tsv"):
        wanted = set(table.columns if typed is None else typed)
        table = table.with_columns(numeric(table[name]) for name in table.columns if name in wanted)
    if columns is not None:
        check_columns(source, columns, table.columns)
        table = table.select(columns)
    if table.is_empty():
        raise InputError(f"{shown(source)} has no rows; expected at least one")
    return table


def write_parquet(path: str | PathLike[str], table: pl.DataFrame) -> None:
    """Write the table atomically as Parquet; OSError on a full disk, where Polars' writer raises its own."""
    with atomic_path(path) as unfinished:
        pq.write_table(table.to_arrow(), unfinished)


def list_files(source: str) -> list[str]:
    """The files that `source` names, sorted, all of one format; hidden files in a folder are left out."""
    system, path = filesystem(source)
    if system.isfile(path):
        files = [path]
    elif system.isdir(path):
        files = [str(file) for file in system.ls(path, detail=False) if is_table(file)]
    else:
        pattern = glob_pattern(system, path)
        files = [str(file) for file in system.glob(pattern) if is_table(file)] if pattern else []
    if not files:
        kinds = ", ".join(sorted(_FORMATS))
        raise FileNotFoundError(f"{shown(source)}: no such file, and no folder or glob with files of {kinds}")
    formats = {table_format(file) for file in files}
    if len(formats) > 1:
        mixed = " and ".join(sorted(formats))
        raise InputError(f"{shown(source)} mixes {mixed} files; name those of one format")
    files.sort()
    return [str(system.unstrip_protocol(file)) for file in files] if "://" in source else files


def table_format(file: str) -> str:
    """ "csv", "tsv", "jsonl" or "parquet", from the file's name."""
    suffix = _suffix(file)
    if suffix not in _FORMATS:
        known = ", ".join(sorted(_FORMATS))
        raise InputError(f"{shown(file)}: unknown format '{suffix}'; expected one of {known}")
    return _FORMATS[suffix]


def check_columns(source: str, wanted: Iterable[str], found: Sequence[str]) -> None:
    """Raise InputError that names every wanted column that is not among those found."""
    missing = [name for name in wanted if name not in found]
    if missing:
        names = ", ".join(f"{quoted(name)}{did_you_mean(name, found)}" for name in missing)
        listed = ", ".join([*map(quoted, found[:_NAMED]), *(["..."] if len(found) > _NAMED else [])])
        plural = "s" if len(missing) > 1 else ""
        raise InputError(f"{shown(source)}: no column{plural} {names}; found {listed}")


def is_folder(source: str) -> bool:
    """Whether a path or URI names a folder that exists."""
    system, path = filesystem(source)
    return system.isdir(path)


def has_wildcard(path: str) -> bool:
    """Whether the path can be read as a glob; a file may still be called that."""
    return any(character in path for character in "*?[")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)" with the nearest known name, or nothing when none is near."""
    folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f" (did you mean {quoted(folded[near[0]])}?)" if near else ""


def _read_file(file: str, columns: Sequence[str] | None) -> pl.DataFrame:
    kind = table_format(file)
    try:
        content = _content(file)
        if kind == "parquet":
            return _read_parquet(content, columns)
        if kind == "jsonl":
            return read_jsonl(content)
        return read_csv(content, "\t" if kind == "tsv" else ",", shown(file))
    except FileNotFoundError:
        raise
    except (*_UNREADABLE, OSError, ValueError) as error:
        said = without_secrets(first_line(error), file)
        raise InputError(f"{shown(file)}: not a readable {kind} table: {said}") from error


def _read_parquet(content: str | io.BytesIO, columns: Sequence[str] | None) -> pl.DataFrame:
    if columns is None:
        return pl.read_parquet(content, glob=False)
    found = pl.scan_parquet(content, glob=False).collect_schema()
    if isinstance(content, io.BytesIO):
        content.seek(0)
    return pl.read_parquet(content, columns=[name for name in columns if name in found], glob=False)


def _content(file: str) -> str | io.BytesIO:
    """The path of a plain local file, which polars can map; else the (decompressed) bytes."""
    plain = "://" not in file and not file.lower().endswith(COMPRESSED)
    # Polars takes such a path for a glob, and its NDJSON reader cannot be told otherwise.
    if plain and not (has_wildcard(file) and table_format(file) == "jsonl"):
        return file
    with cast(fsspec.core.OpenFile, fsspec.open(file, "rb", compression="infer")) as stream:
        content = stream.read()
    if not content:
        raise ValueError("the file is empty")
    return io.BytesIO(content)


def numeric(column: pl.Series) -> pl.Series:
    """The column as Int64 or Float64 when all of its values are such numbers, else as it is."""
    present = column.drop_nulls()
    if present.is_empty():
        return column
    try:
        if present.str.contains(_INTEGER).all():
            return column.cast(pl.Int64)
        if present.str.contains(_NUMBER).all():
            return column.cast(pl.Float64)
    except pl.exceptions.InvalidOperationError:  # integers past 64 bits: keep the digits
        pass
    return column


def filesystem(source: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The store of a path or URI, and what it is called there; InputError where none is known."""
    try:
        return url_to_fs(source)
    except ImportError as error:
        raise InputError(f"{shown(source)}: {first_line(error)}") from error
    except ValueError as error:
        said = without_secrets(first_line(error), source)
        raise InputError(f"{shown(source)}: not a path or URI that fsspec knows: {said}") from error


def is_table(file: object) -> bool:
    """Whether a file is called like a table, and is not hidden."""
    name = posixpath.basename(str(file))
    return _suffix(name) in _FORMATS and not name.startswith((".", "_"))


def _suffix(file: str) -> str:
    stem, suffix = posixpath.splitext(file.lower())
    return posixpath.splitext(stem)[1] if suffix in COMPRESSED else suffix


def glob_pattern(system: fsspec.AbstractFileSystem, path: str) -> str | None:
    """The path as a glob, in which a folder that exists stands for itself; None without a wildcard."""
    folder, name = posixpath.split(path)
    if has_wildcard(folder) and system.isdir(folder):
        return f"{glob.escape(folder)}/{name}" if has_wildcard(name) else None
    return path if has_wildcard(path) else None
