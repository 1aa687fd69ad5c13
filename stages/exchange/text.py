"""Tables as peers' text files have them: read letter for letter, written for any reader of CSV."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import polars as pl
import pyarrow as pa

from ...features.csv_tables import read_csv
from ...features.errors import InputError, first_line
from ...features.tables import COMPRESSED, check_columns, numeric
from .streams import opened

_UNFIT = "[\\t\\n\\r]|^\ufeff"  # separators, and a mark that readers take away from a file
_TO_QUOTE = r'[\t\n\r"]'


def read_text(path: Path, columns: Sequence[str] = ()) -> pl.DataFrame:
    """A tab- or comma-separated file with a header, all columns as text; InputError where `columns` lack."""
    try:
        if path.suffix in COMPRESSED:
            with opened(path) as stream:
                table = read_csv(io.BytesIO(stream.read()), "\t", str(path))
        else:
            table = read_csv(str(path), "\t", str(path))
    except (ValueError, pa.ArrowException, EOFError) as error:
        raise InputError(f"{path}: not a readable table: {first_line(error)}") from error
    check_columns(str(path), columns, table.columns)
    return table


def write_text(path: Path, header: Sequence[str], table: pl.DataFrame) -> None:
    """Tab-separated, with quotes only where a field needs them; a missing value is an empty field."""
    with path.open("wb") as file:
        write_header(file, header)
        append_text(file, table)


def write_header(file: BinaryIO, header: Sequence[str]) -> None:
    """The first line; InputError for a name that cannot stand in it."""
    for name in header:
        if any(character in name for character in '\t\n\r"'):
            raise InputError(f"the column {name!r} cannot be named so in a header; rename it")
    file.write(("\t".join(header) + "\n").encode())


def write_plain(path: Path, table: pl.DataFrame) -> None:
    """Tab-separated without header or quotes; InputError for an id that a line cannot hold so."""
    for column in table:
        if column.dtype == pl.String:
            bad = column.filter(column.str.contains(_UNFIT) | (column.str.strip_chars() == ""))
            if len(bad):
                raise InputError(f"{column.name} {bad[0]!r} cannot stand in {path.name}, which has no quotes")
    table.write_csv(path, include_header=False, separator="\t", quote_style="never", null_value="")


def append_text(file: BinaryIO, table: pl.DataFrame) -> None:
    """The rows, as `write_text` has them."""
    texts = [column for column in table if column.dtype == pl.String]
    quotes = any(column.str.contains(_TO_QUOTE).any() or (column == "").any() for column in texts)
    style = "non_numeric" if quotes else "never"
    table.write_csv(file, include_header=False, separator="\t", quote_style=style, null_value="")


def typed_ids(columns: Iterable[pl.Series], kind: str | None) -> list[pl.Series]:
    """Columns of the same ids, all as integers or all as strings: as `kind` says, if it is known, or as
    integers where every id is one, written without leading zeros."""
    given = list(columns)
    texts = [column.cast(pl.String) for column in given]
    if kind == "string":
        return texts
    numbers = numeric(pl.concat([text.rename("id") for text in texts]))
    if not numbers.dtype.is_integer():
        return texts
    return [text.cast(numbers.dtype) for text in texts]


def seconds(times: pl.Series) -> pl.Series:
    """Dates and datetimes as seconds since 1970, for formats that know numbers alone; numbers as they are."""
    if times.dtype == pl.Date:
        return times.cast(pl.Int64) * 86_400
    if isinstance(times.dtype, pl.Datetime):
        micro = times.dt.epoch("us")
        return micro // 1_000_000 if (micro % 1_000_000 == 0).all() else micro / 1_000_000
    return times
