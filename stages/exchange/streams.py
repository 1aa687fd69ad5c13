"""Large text files in batches of bounded memory: JSON lines, and separated columns without surprises."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import fsspec
import polars as pl
import pyarrow as pa
import pyarrow.csv

from ...features.errors import InputError, first_line
from ...features.json_lines import check_nesting

_CHUNK = 2**25  # bytes of text parsed at a time
_BLOCK = 2**22  # bytes of CSV parsed at a time; Arrow reads 32 of them ahead


def opened(path: Path) -> BinaryIO:
    """The file's content, decompressed where its name says so."""
    return cast(BinaryIO, fsspec.filesystem("file").open(str(path), "rb", compression="infer"))


def json_batches(path: Path, schema: Mapping[str, pl.DataType | type[pl.DataType]]) -> Iterator[pl.DataFrame]:
    """The keys of `schema` of every line, null where a line lacks one; InputError names a bad line."""
    before = 0  # lines
    with opened(path) as stream:
        try:
            while chunk := stream.read(_CHUNK) + stream.readline():
                try:
                    check_nesting(io.BytesIO(chunk))
                    yield pl.read_ndjson(io.BytesIO(chunk), schema=dict(schema))
                except (pl.exceptions.PolarsError, ValueError) as error:
                    raise InputError(f"{path}: {_bad_line(chunk, before) or first_line(error)}") from error
                before += chunk.count(b"\n")
        except (EOFError, OSError) as error:
            raise InputError(f"{path}: not readable after line {before}: {first_line(error)}") from error


def _bad_line(chunk: bytes, before: int) -> str | None:
    for number, line in enumerate(chunk.splitlines(), start=before + 1):
        try:
            if line.strip() and not isinstance(json.loads(line), dict):
                return f"line {number}: expected one JSON object per line"
        except ValueError as error:
            return f"line {number}: expected one JSON object per line: {first_line(error)}"
    return None


def column_batches(
    path: Path,
    columns: Mapping[str, pa.DataType],
    separator: str = ",",
    header: bool = True,
    quoted: bool = True,
) -> Iterator[pl.DataFrame]:
    """The rows of a CSV file with these columns of these types, others left out.

    Without a `header`, `columns` are all that the file has, in its order. Raises InputError for a column
    that is not there, or a value that is not of its type.
    """
    names = list(columns)
    read = pyarrow.csv.ReadOptions(block_size=_BLOCK, column_names=None if header else names)
    parse = pyarrow.csv.ParseOptions(delimiter=separator, quote_char='"' if quoted else False)
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict(columns),
        include_columns=names,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    try:
        with opened(path) as stream, pyarrow.csv.open_csv(stream, read, parse, convert) as batches:
            for batch in batches:
                yield cast(pl.DataFrame, pl.from_arrow(batch))
    except (pa.ArrowException, EOFError) as error:
        expected = f"expected the columns {', '.join(names)}" + ("" if header else " without a header")
        raise InputError(f"{path}: {first_line(error)}; {expected}") from error


def text_lines(path: Path) -> list[str]:
    """The lines of a small file: UTF-8, or else Latin-1, as MovieLens' older titles are."""
    with opened(path) as stream:
        content = stream.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]


def separated(path: Path, lines: Sequence[str], separator: str, columns: Sequence[str]) -> pl.DataFrame:
    """The first fields of the lines of `path` as text columns, null where empty; quotes mean nothing.

    InputError for a line with too few fields.
    """
    fields = pl.Series(lines, dtype=pl.String).str.split_exact(separator, len(columns)).struct.unnest()
    fields = fields.select(pl.nth(at).alias(name) for at, name in enumerate(columns))
    short = fields[columns[-1]].is_null().arg_true()
    if len(short):
        found = lines[short[0]].count(separator) + 1
        raise InputError(
            f"{path}: {found} fields between {separator!r} in {lines[short[0]][:80]!r}; "
            f"expected {', '.join(columns)}"
        )
    return fields.with_columns(pl.when(pl.all() != "").then(pl.all()))
