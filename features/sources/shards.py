"""Tar shards (WebDataset) as a catalogue: samples are the files of one name, pictures stay where they lie."""

from __future__ import annotations

import io
import json
import logging
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
import polars as pl
import pyarrow as pa

from ..errors import InputError, first_line, quoted
from ..json_lines import check_depth
from .policy import shown
from .tar import Member, read_members

log = logging.getLogger(__name__)

PICTURES = frozenset(
    [
        *("jpg", "jpeg", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "ico"),
        *("jp2", "j2k", "ppm", "pgm", "pbm", "pnm"),
    ]
)
TEXT = "text"  # the column of .txt members
_MAX_FIELDS = 16 * 2**20  # bytes of one .json or .txt
_NAMED = 5  # bad members that an error lists
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)  # NaN is no JSON: the value is missing


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of all shards, in their order."""

    keys: pl.Series  # String
    fields: pl.DataFrame  # of the .json members and, as `text`, of the .txt members
    pictures: pl.Series  # per sample a list of {extension, shard, offset, size}; no size for a link


def read_samples(shards: Sequence[str], readers: int) -> Samples:
    """Index the shards, `readers` at a time: headers, .json and .txt are read, pictures are not.

    Raises InputError for a shard that is damaged, cut off, or holds two files of one name.
    """
    with ThreadPoolExecutor(readers) as pool:
        indexes = list(pool.map(_index, shards))
    left_out = sum((index.left_out for index in indexes), Counter[str]())
    samples = [sample for index in indexes for sample in index.samples.values()]
    if not samples:
        raise InputError(
            f"{shown(shards[0])}: no samples in {len(shards)} tar shards; expected files as 01.jpg, 01.json"
        )
    if left_out:
        kinds = ", ".join(f"{kind} {count}" for kind, count in left_out.most_common(10))
        log.info("members of tar shards that are neither pictures nor .json nor .txt are left out: %s", kinds)
    keys = pl.Series("key", [key for index in indexes for key in index.samples], dtype=pl.String)
    return Samples(keys, _fields(shown(shards[0]), keys, samples), _pictures(shards, indexes))


@dataclass(slots=True)
class _Sample:
    pictures: list[tuple[str, int, int | None]] = field(default_factory=list)  # extension, offset, size
    values: dict[str, Any] | None = None  # of its .json
    text: str | None = None  # of its .txt


@dataclass(slots=True)
class _Index:
    """One shard."""

    samples: dict[str, _Sample] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    repeated: dict[str, None] = field(default_factory=dict)

    def add(self, member: Member, file: BinaryIO, shard: str) -> None:
        key, extension = split_name(member.name)
        kind = extension.rpartition(".")[2]
        if not key:
            return
        if kind not in PICTURES and extension not in ("json", "txt"):
            self.left_out[extension] += 1
            return
        name = f"{key}.{extension}"
        if name in self.names:
            self.repeated[name] = None
        self.names.add(name)
        sample = self.samples.setdefault(key, _Sample())
        if kind in PICTURES:
            sample.pictures.append((extension, member.offset, member.size))
        elif extension == "json":
            sample.values = _json(_content(file, member, shard), f"{shard}: {quoted(member.name)}")
        else:
            sample.text = _utf8(_content(file, member, shard), f"{shard}: {quoted(member.name)}")


def _index(shard: str) -> _Index:
    index, name = _Index(), shown(shard)
    try:
        with _opened(shard) as file:
            for member in read_members(file, name):
                index.add(member, file, name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such file") from error
    except ImportError as error:
        raise InputError(f"{name}: {first_line(error)}") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or first_line(error)}") from error
    if index.repeated:
        first = ", ".join(map(quoted, list(index.repeated)[:_NAMED]))
        raise InputError(f"{name}: {len(index.repeated)} names occur more than once (first: {first})")
    index.names.clear()
    return index


def _opened(shard: str) -> BinaryIO:
    if "://" not in shard:
        return Path(shard).open("rb")
    return cast(BinaryIO, cast(fsspec.core.OpenFile, fsspec.open(shard, "rb")).open())


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member, as WebDataset cuts them: at the first dot of the file's own name.

    The folder belongs to the key, but for a leading "./". Hidden files have no key. A name is never a path
    here: it may be absolute or hold "..".
    """
    folder, name = posixpath.split(name.removeprefix("./"))
    stem, _, extension = name.partition(".")
    return (posixpath.join(folder, stem), extension.lower()) if stem and extension else ("", "")


def _content(file: BinaryIO, member: Member, shard: str) -> bytes:
    name = f"{shard}: {quoted(member.name)}"
    if member.size is None:
        raise InputError(f"{name} is a link; pack the files themselves (tar --dereference)")
    if member.size > _MAX_FIELDS:
        raise InputError(f"{name} has {member.size} bytes; expected at most {_MAX_FIELDS}")
    file.seek(member.offset)
    return file.read(member.size)


def _json(content: bytes, where: str) -> dict[str, Any]:
    try:
        values = _DECODER.decode(content.decode("utf-8-sig"))
        check_depth(values)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: unusable JSON: {first_line(error)}") from error
    if not isinstance(values, dict):
        raise InputError(f"{where}: holds a {type(values).__name__}; expected an object of fields")
    return values


def _utf8(content: bytes, where: str) -> str | None:
    """The text, without the line end that editors add; None for an empty one."""
    try:
        return content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r") or None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8: {first_line(error)}") from error


def _fields(where: str, keys: Iterable[str], samples: Iterable[_Sample]) -> pl.DataFrame:
    """One row per sample, null where it has no such field; .txt comes before a field of its name."""
    lines = io.BytesIO()
    for key, sample in zip(keys, samples, strict=True):
        values = sample.values or {}
        if sample.text is not None:
            values = {**values, TEXT: sample.text}
        try:
            lines.write(json.dumps(values, ensure_ascii=False).encode() + b"\n")
        except UnicodeEncodeError as error:  # half a character, which JSON can write and no table can hold
            raise InputError(
                f"{where}: the .json of {quoted(key)} is not Unicode: {first_line(error)}"
            ) from error
    lines.seek(0)
    try:
        return pl.read_ndjson(lines, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{where}: the fields of .json do not fit together: {first_line(error)}") from error


def _pictures(shards: Sequence[str], indexes: Iterable[_Index]) -> pl.Series:
    extensions, numbers, offsets, sizes = [], [], [], []
    ends = [0]
    for number, index in enumerate(indexes):
        for sample in index.samples.values():
            for extension, offset, size in sample.pictures:
                extensions.append(extension)
                numbers.append(number)
                offsets.append(offset)
                sizes.append(size)
            ends.append(len(numbers))
    names = pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int32()), pa.array(list(shards), pa.string()))
    places = pa.StructArray.from_arrays(
        [
            pa.array(extensions, pa.string()).dictionary_encode(),
            names,
            pa.array(offsets, pa.int64()),
            pa.array(sizes, pa.int64()),
        ],
        ["extension", "shard", "offset", "size"],
    )
    return pl.Series("pictures", pa.ListArray.from_arrays(pa.array(ends, pa.int32()), places))
