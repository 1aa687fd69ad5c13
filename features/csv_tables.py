"""CSV as people have it: other separators, stray quotes, empty lines; and what is wrong with the rest."""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.csv

from .errors import first_line, quoted
from .text_files import BOM, Content, check_utf8, head_of, opened

log = logging.getLogger(__name__)

_SEPARATORS = (b",", b";", b"\t", b"|")
_LARGEST_ROW = 2**26  # bytes
csv.field_size_limit(_LARGEST_ROW)  # beyond the 128 KiB that descriptions may have


def read_csv(content: Content, separator: str, name: str) -> pl.DataFrame:
    """Every column that has a name, as text, letter for letter; `name` is the file's, for the log.

    Where the header lacks `separator`, it is the one of , ; tab | that it has. Lines in which every field is
    empty are left out, and fields that a line lacks are null. ValueError says which line is wrong, and how.
    """
    separator = _separator(head_of(content), separator)
    columns = _header(content, separator)
    try:
        table = _read_fast(content, separator, len(columns))
    except pa.ArrowInvalid:
        table = _read_slowly(content, separator, len(columns), name)
    _check_quotes(content, separator)
    named = [index for index, column in enumerate(columns) if column]
    table = table.select(pl.nth(index).alias(columns[index]) for index in named)
    filled = table.filter(~pl.all_horizontal(pl.all().is_null()))
    if len(filled) < len(table):
        log.warning("%s: %d empty lines are left out", name, len(table) - len(filled))
    return filled


def _separator(head: bytes, expected: str) -> str:
    """The one that the header holds outside quotes, if it is one alone, else the expected one."""
    header = re.sub(rb'"[^"]*"', b"", head.removeprefix(BOM).lstrip(b"\r\n").partition(b"\n")[0])
    found = [separator for separator in _SEPARATORS if separator in header]
    return found[0].decode() if len(found) == 1 else expected


def _header(content: Content, separator: str) -> list[str]:
    """The names in the header, empty ones among them. ValueError where one stands twice."""
    with _rows(content, separator) as rows:
        names = next(filter(None, rows), [])
    repeated = [name for name, count in Counter(names).items() if count > 1 and name]
    if repeated:
        listed = ", ".join(map(quoted, repeated))
        raise ValueError(f"the header names more than one column {listed}; give each its own name")
    return names


def _read_fast(content: Content, separator: str, width: int) -> pl.DataFrame:
    """pyarrow's reader; polars' loses its way in lines such as `7,5" disk`. Columns are f0, f1, ..."""
    names = [f"f{index}" for index in range(width)]
    read = pyarrow.csv.ReadOptions(block_size=_LARGEST_ROW, column_names=names)
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    parse = pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    with opened(content) as stream:
        table = pyarrow.csv.read_csv(stream, read, parse, convert)
    return cast(pl.DataFrame, pl.from_arrow(table)).slice(1)  # without the header


def _check_quotes(content: Content, separator: str) -> None:
    """ValueError where a quote is not closed, or more follows: the fast reader would swallow lines."""
    with opened(content) as stream:
        if not any(b'"' in chunk for chunk in iter(partial(stream.read, 2**20), b"")):
            return
    with _rows(content, separator) as rows:
        for _ in rows:
            continue


@contextmanager
def _rows(content: Content, separator: str) -> Iterator[Any]:
    """Python's reader, for which nothing but a separator may follow a closing quote."""
    with opened(content) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        rows = csv.reader(text, delimiter=separator, strict=True)
        try:
            yield rows
        except csv.Error as error:
            hint = "put fields that hold quotes into quotes, and double those within"
            raise ValueError(f"line {rows.line_num}: {first_line(error)}; {hint}") from error
        except UnicodeDecodeError:
            check_utf8(content)
            raise
        finally:
            text.detach()


def _read_slowly(content: Content, separator: str, width: int, name: str) -> pl.DataFrame:
    """Line by line, with nulls for fields that a line lacks; ValueError for a line with too many."""
    table: list[list[str | None]] = []
    short = 0
    with _rows(content, separator) as rows:
        next(filter(None, rows), None)
        for row in filter(None, rows):
            if len(row) > width:
                raise ValueError(
                    f"line {rows.line_num}: {len(row)} fields, but the header names {width}; put fields that "
                    f"hold {separator!r} into quotes, and double the quotes within them"
                )
            short += len(row) < width
            table.append([*(field or None for field in row), *[None] * (width - len(row))])
    if short:
        log.warning("%s: %d lines lack fields at their end, which are taken for missing", name, short)
    return pl.DataFrame(table, [(f"f{index}", pl.String) for index in range(width)], orient="row")
