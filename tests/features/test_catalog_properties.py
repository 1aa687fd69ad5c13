"""Whatever a catalogue's file holds: the catalogue that was meant, or one line that says what is wrong."""

import bz2
import gzip
import io
import json
import lzma
import os
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmrec.features.catalog import Catalog, read_catalog
from mmrec.features.config import CatalogConfig
from mmrec.features.errors import InputError

EXAMPLES = int(os.environ.get("MMREC_EXAMPLES", "25"))
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

HOSTILE = [
    *("", " ", "\t", "NA", "null", "None", "nan", "inf", "-0", "+7", "007", "1e5", "1.", ".5", "1,5", "0x10"),
    *("9223372036854775807", "9223372036854775808", "99999999999999999999", "true", "2020-01-01", "=1+1"),
    *('"', '""', "'", "a,b", "a;b", 'say "hi"', "line\nbreak", "line\r\nbreak", "\r", "\x00", "\x1a", "\x0b"),
    *("\ufeff", "\u200b", "\u2028", "é", "e\u0301", "日本", "🧢", "\U0010ffff", "\\", "\\n", "#", "../../x"),
    *("http://[", "a" * 300, "_duplicated_0", "{title}", "*", "[x]"),
]
letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
cells = st.sampled_from(HOSTILE) | letters
names = st.sampled_from(["item_id", "image", "title", "id", "Title"]) | cells


def read(content: bytes, name: str, image: str | None = None, **config: Any) -> Catalog:
    """The catalogue, every part of it touched, from a file of this name and content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        catalog = read_catalog(CatalogConfig(items=str(path), image=image, **config))
    images = list(catalog.images)
    assert len(catalog) == catalog.fields.height == len(images) > 0
    assert catalog.item_ids.dtype in (pl.Int64, pl.UInt64, pl.String)
    assert catalog.item_ids.null_count() == 0 and catalog.item_ids.n_unique() == len(catalog)
    assert all(isinstance(reference, str | bytes) for references in images for reference in references)
    assert len(catalog.slice(1, 3).fields.rows()) == len(list(catalog.slice(1, 3).images))
    return catalog


def as_csv(header: list[str], rows: list[list[str | None]], separator: str = ",") -> bytes:
    """Every cell quoted but those that are missing."""
    quoted = [
        ["" if cell is None else f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row]
        for row in [header, *rows]
    ]
    return "".join(separator.join(row) + "\n" for row in quoted).encode()


def as_jsonl(header: list[str], rows: list[list[str | None]]) -> bytes:
    return "".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows).encode()


def as_parquet(header: list[str], rows: list[list[str | None]]) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(rows, dict.fromkeys(header, pl.String), orient="row").write_parquet(stream)
    return stream.getvalue()


FORMATS: dict[str, Callable[[list[str], list[list[str | None]]], bytes]] = {
    "items.csv": as_csv,
    "items.tsv": lambda header, rows: as_csv(header, rows, "\t"),
    "items.csv.gz": lambda header, rows: gzip.compress(as_csv(header, rows)),
    "items.csv.xz": lambda header, rows: lzma.compress(as_csv(header, rows)),
    "items.csv.bz2": lambda header, rows: bz2.compress(as_csv(header, rows)),
    "items.jsonl": as_jsonl,
    "items.parquet": as_parquet,
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str | None]]]:
    """Unique ids of every kind, none blank, and cells of every kind in columns with names of every kind."""
    ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5) | st.sampled_from(HOSTILE)
    ids = ids.filter(lambda text: text.strip() != "")
    unique = draw(st.lists(ids, min_size=1, max_size=6, unique=True))
    columns = draw(st.lists(cells.filter(lambda name: name not in ("item_id", "")), max_size=3, unique=True))
    rows = [[item, *(draw(st.none() | cells) for _ in columns)] for item in unique]
    return ["item_id", *columns], rows


@pytest.mark.parametrize("name", FORMATS)
@many
@given(table=tables())
def test_a_table_comes_back_letter_for_letter_or_is_refused(
    name: str, table: tuple[list[str], list[list[str | None]]]
) -> None:
    header, rows = table
    try:
        catalog = read(FORMATS[name](header, rows), name)
    except InputError:
        return
    assert catalog.fields.columns == header[1:]
    assert [[*row] for row in catalog.fields.rows()] == [row[1:] for row in rows]
    ids = catalog.item_ids.to_list()
    assert ids == [row[0] if isinstance(ids[0], str) else int(row[0] or "") for row in rows]


@pytest.mark.parametrize("name", FORMATS)
@many
@given(table=tables(), data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(
    name: str, table: tuple[list[str], list[list[str | None]]], data: st.DataObject
) -> None:
    content = bytearray(FORMATS[name](*table))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "remove", "repeat"])):
            case "flip" if at < len(content):
                content[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[at:]
            case "insert":
                content[at:at] = data.draw(
                    st.sampled_from([b'"', b"\n", b"\0", b","]) | st.binary(max_size=4)
                )
            case "remove":
                del content[at : at + data.draw(st.integers(1, 8))]
            case _:
                content[at:at] = content[at : at + 16]
    refused_or_read(bytes(content), name)


@pytest.mark.parametrize("name", ["items.csv", "items.tsv", "items.jsonl", "items.parquet", "items.csv.gz"])
@many
@given(st.binary(max_size=60) | letters.map(str.encode) | cells.map(lambda text: text.encode("utf-16")))
def test_any_bytes_are_read_or_refused_in_one_line(name: str, content: bytes) -> None:
    refused_or_read(content, name)


@many
@given(
    header=st.lists(names, max_size=4),
    rows=st.lists(st.lists(cells, max_size=5), max_size=5),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"]),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    image=st.sampled_from([None, "image"]),
)
def test_ragged_rows_odd_headers_and_encodings_are_read_or_refused(
    header: list[str], rows: list[list[str]], encoding: str, newline: str, image: str | None
) -> None:
    lines = newline.join(",".join(line) for line in [header, *rows])
    refused_or_read(lines.encode(encoding, "replace"), "items.csv", image)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | cells,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)


@many
@given(
    rows=st.lists(st.dictionaries(names, json_values, max_size=4) | json_values, max_size=5),
    image=st.sampled_from([None, "image"]),
)
def test_json_lines_of_any_shape_are_read_or_refused(rows: list[Any], image: str | None) -> None:
    refused_or_read("\n".join(map(json.dumps, rows)).encode(), "items.jsonl", image)


scalars = {
    pl.Int8: st.integers(-128, 127),
    pl.Int64: st.integers(-(2**63), 2**63 - 1),
    pl.UInt64: st.integers(0, 2**64 - 1),
    pl.Float32: st.floats(width=32),
    pl.Float64: st.floats(),
    pl.Boolean: st.booleans(),
    pl.String: cells,
    pl.Binary: st.binary(max_size=4),
    pl.Date: st.dates(),
    pl.Datetime: st.datetimes(),
    pl.Duration: st.timedeltas(timedelta(-9999), timedelta(9999)),
    pl.Decimal(20, 2): st.decimals(-999, 999, places=2),
    pl.Categorical: cells,
    pl.Null: st.none(),
    pl.Struct({"bytes": pl.Binary, "path": pl.String}): st.fixed_dictionaries(
        {"bytes": st.none() | st.binary(max_size=3), "path": st.none() | cells}
    ),
    pl.Struct({"x": pl.Date}): st.fixed_dictionaries({"x": st.just(date(2020, 2, 29))}),
}


@st.composite
def columns(draw: st.DrawFn, n: int) -> pl.Series:
    dtype, values = draw(st.sampled_from(list(scalars.items())))
    values = st.none() | values
    shape = draw(st.sampled_from(["scalar", "scalar", "list", "array", "nested"]))
    if shape == "list":
        dtype, values = pl.List(dtype), st.none() | st.lists(values, max_size=3)
    if shape == "array":
        dtype, values = pl.Array(dtype, 2), st.none() | st.lists(values, min_size=2, max_size=2)
    if shape == "nested":
        dtype, values = pl.List(pl.List(dtype)), st.lists(st.lists(values, max_size=2), max_size=2)
    return pl.Series(draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype, strict=False)


@many
@given(data=st.data(), n=st.integers(0, 4), image=st.sampled_from([None, "image"]))
def test_parquet_columns_of_any_type_are_read_or_refused(
    data: st.DataObject, n: int, image: str | None
) -> None:
    wanted = data.draw(st.lists(names, max_size=3, unique=True))
    header = dict.fromkeys(["item_id", "image", *wanted])
    table = pl.DataFrame({name: data.draw(columns(n)) for name in header})
    stream = io.BytesIO()
    try:
        table.write_parquet(stream)
    except pl.exceptions.PolarsError:  # not every type has a place in Parquet
        return
    refused_or_read(stream.getvalue(), "items.parquet", image)


def refused_or_read(content: bytes, name: str, image: str | None = None) -> None:
    try:
        read(content, name, image)
    except InputError as error:
        assert "\n" not in str(error) and str(error).strip()
