"""JSON that is nested too deeply for the parser of tables, which it would bring down with the process."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

_MAX_DEPTH = 64
_CHUNK = 2**26  # bytes
_NOT_OPENING = bytes(set(range(256)) - set(b"[{\n"))


def check_lines(stream: BinaryIO) -> None:
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
