"""Parquet files whose vector columns are written and read at the speed of raw arrays.

A vector column is an ordinary fixed-size list of float16, plain and uncompressed: its pages are the bytes of
the matrix behind a few that say which rows are null. Arrow takes every element through its code for nested
values, at 0.2 GB/s; so Arrow makes the file with these columns null, and their pages are put in here.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .files import digest_bytes
from .thrift import (
    BINARY,
    I32,
    I64,
    STRUCT,
    Struct,
    decode_struct,
    decode_varint,
    encode_struct,
    encode_varint,
)

Vectors: TypeAlias = tuple[np.ndarray, np.ndarray]  # (n, dim) float16, present (n,) bool

_SPANS = "mmrec.columns"  # the key of the footer that holds the columns' spans
_SEAL = b"\x18\x0bmmrec.crc32\x18\x08"  # a key and the size of its value: what stands before the checksum
_MAGIC = b"PAR1"
_ENDING = 8  # bytes behind the footer: its size and the magic ones
_FIRST_READ = 2**15  # bytes from the end that hold most footers
_PAGE_BYTES = 2**26  # of vectors; Parquet allows less than 2 GiB
_PLAIN, _RLE = 0, 3  # of Parquet's encodings
_NULL, _FILLED = 0, 2  # definition levels of a null row and of an element; 1 is an empty list


@dataclass(frozen=True, slots=True)
class Span:
    """Where the pages of a column lie in the file, and their CRC-32."""

    start: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Footer:
    """The end of a file: its digest, what Arrow makes of it, and the spans of its columns."""

    digest: str
    parquet: pq.FileMetaData
    spans: dict[str, Span]  # none in a file that another writer made


def vector_type(dim: int) -> pa.DataType:
    """A list that may be null, of `dim` float16 that may not."""
    return pa.list_(pa.field("element", pa.float16(), nullable=False), dim)


def write_vector_file(
    path: Path, table: pa.Table, vectors: Mapping[str, Vectors], metadata: Mapping[str, str]
) -> None:
    """Write `table`, whose columns named in `vectors` are null, with these vectors; absent rows stay null.

    One row group, no compression, no dictionary: embeddings barely compress. `metadata` goes into the footer.
    """
    made = _made_by_arrow(table)
    footer, _ = decode_struct(_footer_of(made))
    (group,) = _values(footer, 4)
    spans: dict[str, Span] = {}
    with path.open("wb") as file:
        file.write(_MAGIC)
        for name, chunk in zip(table.column_names, _values(group, 1), strict=True):
            facts = chunk[3][1]
            if name in vectors:
                spans[name] = _write_pages(file, facts, *vectors[name])
            else:
                spans[name] = _copy_pages(file, facts, made)
        group[2] = I64, sum(span.size for span in spans.values())
        group[6] = group[2]
        layout = json.dumps({name: astuple(span) for name, span in spans.items()})
        for key, value in {**metadata, _SPANS: layout, "mmrec.crc32": "0" * 8}.items():
            _values(footer, 5).append({1: (BINARY, key.encode()), 2: (BINARY, value.encode())})
        file.write(_sealed(encode_struct(footer)))


def read_footer(path: Path) -> Footer:
    """The footer of a Parquet file; OSError, ValueError or ArrowException when it is absent or damaged."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        ending = _last_bytes(file, size, _FIRST_READ)
        needed = int.from_bytes(ending[-_ENDING:-4], "little") + _ENDING
        if needed > len(ending):
            ending = _last_bytes(file, size, needed)
    if ending[-4:] != _MAGIC or needed > size:
        raise ValueError("it does not end as a Parquet file")
    ending = ending[-needed:]
    ours = _SPANS.encode() in ending
    if (ours or _SEAL in ending) and _sealed(ending[:-_ENDING]) != ending:
        raise ValueError("its footer does not have its checksum")
    parquet = pq.read_metadata(pa.BufferReader(_MAGIC + ending))
    layout = json.loads(parquet.metadata[_SPANS.encode()]) if ours else {}
    return Footer(digest_bytes(ending), parquet, {name: Span(*span) for name, span in layout.items()})


def read_span(path: Path, span: Span) -> bytes:
    """The pages of a column; ValueError when they are not those that were written."""
    with path.open("rb") as file:
        file.seek(span.start)
        pages = file.read(span.size)
    if len(pages) != span.size or zlib.crc32(pages) != span.crc32:
        raise ValueError("a column does not have its checksum")
    return pages


def vectors_of(pages: bytes, dim: int) -> Vectors:
    """The vectors in the pages that `write_vector_file` wrote for a column, zero where absent."""
    parts = list(_decoded(pages, dim))
    values = parts[0][0] if len(parts) == 1 else np.concatenate([halves for halves, _ in parts])
    present = np.concatenate([mask for _, mask in parts])
    if present.all():
        return values, present
    matrix = np.zeros((len(present), dim), np.float16)
    matrix[present] = values
    return matrix, present


def _sealed(footer: bytes) -> bytes:
    """The footer with its CRC-32, taken with zeros in that place, and what ends a Parquet file."""
    before, seal, rest = footer.rpartition(_SEAL)
    rest = rest[8:]
    crc32 = zlib.crc32(before + seal + b"0" * 8 + rest)
    return before + seal + b"%08x" % crc32 + rest + len(footer).to_bytes(4, "little") + _MAGIC


def _made_by_arrow(table: pa.Table) -> pa.Buffer:
    stream = pa.BufferOutputStream()
    pq.write_table(
        table,
        stream,
        row_group_size=len(table),
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return stream.getvalue()


def _footer_of(made: pa.Buffer) -> bytes:
    size = int.from_bytes(made[-_ENDING:-4].to_pybytes(), "little")
    return made[-_ENDING - size : -_ENDING].to_pybytes()


def _values(struct: Struct, field: int) -> list:
    """The values of a list field."""
    return struct[field][1][1]


def _copy_pages(file: BinaryIO, facts: Struct, made: pa.Buffer) -> Span:
    """Copy a column's pages as Arrow made them; `facts`, its ColumnMetaData, learns where they now are."""
    start, size = file.tell(), facts[7][1]
    pages = made[facts[9][1] : facts[9][1] + size].to_pybytes()
    file.write(pages)
    facts[9] = I64, start
    return Span(start, size, zlib.crc32(pages))


def _write_pages(file: BinaryIO, facts: Struct, halves: np.ndarray, present: np.ndarray) -> Span:
    """Write a column's vectors as pages; `facts`, its ColumnMetaData, learns of them."""
    start, crc32, entries = file.tell(), 0, 0
    dim = halves.shape[1]
    rows = max(_PAGE_BYTES // (2 * dim), 1)
    for first in range(0, len(halves), rows):
        mask = present[first : first + rows]
        filled = halves[first : first + rows]
        values = np.ascontiguousarray(filled if mask.all() else filled[mask], "<f2")
        content = values.ravel().view(np.uint8).data
        levels, count = _levels(mask, dim)
        for part in (_page_header(levels, content, count), levels, content):
            crc32 = zlib.crc32(part, crc32)
            file.write(part)
        entries += count
    size = file.tell() - start
    facts |= {5: (I64, entries), 6: (I64, size), 7: (I64, size), 9: (I64, start)}
    for optional in (13, 16):  # statistics of pages and sizes that no longer hold
        facts.pop(optional, None)
    return Span(start, size, crc32)


def _page_header(levels: bytes, values: memoryview, entries: int) -> bytes:
    size = len(levels) + len(values)
    checksum = zlib.crc32(values, zlib.crc32(levels))
    data_page: Struct = {1: (I32, entries), 2: (I32, _PLAIN), 3: (I32, _RLE), 4: (I32, _RLE)}
    signed = checksum - 2**32 if checksum >= 2**31 else checksum
    return encode_struct(
        {1: (I32, 0), 2: (I32, size), 3: (I32, size), 4: (I32, signed), 5: (STRUCT, data_page)}
    )


def _levels(present: np.ndarray, dim: int) -> tuple[bytes, int]:
    """A page's repetition and definition levels, and of how many entries: 1 for a null row, else dim."""
    first = _run(1, 0)
    row = first + _run(dim - 1, 1) if dim > 1 else first
    repetition = row * len(present) if present.all() else b"".join(row if has else first for has in present)
    starts = np.flatnonzero(np.diff(present, prepend=not present[0]))
    runs = list(zip(present[starts], np.diff(starts, append=len(present)), strict=True))
    definition = b"".join(_run(int(n) * dim, _FILLED) if has else _run(int(n), _NULL) for has, n in runs)
    entries = int(np.where(present, dim, 1).sum())
    return b"".join(len(part).to_bytes(4, "little") + part for part in (repetition, definition)), entries


def _run(count: int, level: int) -> bytes:
    """`count` times the level, as a run of Parquet's RLE encoding with levels of up to 8 bits."""
    return encode_varint(count << 1) + bytes([level])


def _decoded(pages: bytes, dim: int) -> Iterator[Vectors]:
    """Per page its vectors without the absent ones, and which rows are present; nothing is copied."""
    position = 0
    while position < len(pages):
        header, position = decode_struct(pages, position)
        end = position + header[3][1]
        position += 4 + int.from_bytes(pages[position : position + 4], "little")  # rows are all of one size
        size = int.from_bytes(pages[position : position + 4], "little")
        present = _mask(pages, position + 4, position + 4 + size, dim)
        values = np.frombuffer(pages, "<f2", int(present.sum()) * dim, position + 4 + size)
        yield values.reshape(-1, dim), present
        position = end


def _mask(pages: bytes, position: int, end: int, dim: int) -> np.ndarray:
    """Which rows are present, from the runs of definition levels."""
    has, rows = [], []
    while position < end:
        count, position = decode_varint(pages, position)
        has.append(pages[position] == _FILLED)
        rows.append((count >> 1) // (dim if has[-1] else 1))
        position += 1
    return np.repeat(has, rows)


def _last_bytes(file: BinaryIO, size: int, count: int) -> bytes:
    file.seek(max(size - count, 0))
    return file.read(count)
