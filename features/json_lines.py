"""JSON lines: where one cannot be read, which it is; and none so deeply nested that it crashes the parser."""

from __future__ import annotations

import io
import json
from typing import Any, BinaryIO

import polars as pl

from .errors import first_line
from .text_files import BOM, Content, check_utf8, head_of, opened

_EXPECTED = "expected one JSON object per line"
_MAX_DEPTH = 64
_CHUNK = 2**26  # bytes
_NOT_OPENING = bytes(set(range(256)) - set(b"[{\n"))


def read_jsonl(content: Content) -> pl.DataFrame:
    """One row per line, each of them a JSON object; ValueError says which line is wrong, and how."""
    if head_of(content).startswith(BOM):
        with opened(content) as stream:
            content = io.BytesIO(stream.read().removeprefix(BOM))
    with opened(content) as stream:
        check_nesting(stream)
    try:
        with opened(content) as stream:
            return pl.read_ndjson(content if isinstance(content, str) else stream, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        check_utf8(content)
        _check_objects(content)
        raise ValueError(first_line(error)) from error


def check_nesting(stream: BinaryIO) -> None:
    """Read JSON lines to the end; ValueError for one that is nested too deeply."""
    while chunk := stream.read(_CHUNK) + stream.readline():
        openings = chunk.translate(None, _NOT_OPENING).split(b"\n")
        if max(map(len, openings)) <= _MAX_DEPTH:  # as many brackets it would take, open or not
            continue
        for line in chunk.split(b"\n"):
            if line.count(b"[") + line.count(b"{") > _MAX_DEPTH:
                _check_line(line)


def check_depth(value: Any) -> None:
    """ValueError for lists and objects within each other beyond what tables can hold."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict | list):
                inner += one.values() if isinstance(one, dict) else one
        if not inner:
            return
        level = inner
    raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")


def _check_line(line: bytes) -> None:
    try:
        check_depth(json.loads(line))
    except RecursionError as error:
        raise ValueError("nested far too deeply") from error


def _check_objects(content: Content) -> None:
    """ValueError that names the first line that is no JSON object."""
    with opened(content) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                value = json.loads(line) if line.strip() else {}
            except ValueError as error:
                raise ValueError(f"line {number}: {_EXPECTED}: {first_line(error)}") from error
            if not isinstance(value, dict):
                kind = type(value).__name__
                raise ValueError(f"line {number}: {_EXPECTED}, found {kind}")
