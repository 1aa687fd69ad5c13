"""Which tar shards a catalogue's source names."""

from __future__ import annotations

import posixpath
import re

from ..errors import InputError
from ..tables import COMPRESSED, filesystem, glob_pattern, is_table
from .policy import shown

_PACKED = (".tgz", *(f".tar{suffix}" for suffix in COMPRESSED))
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SERIES = 1_000_000


def list_shards(source: str) -> list[str]:
    """The tar files that `source` names, sorted; none where it names tables, or nothing at all.

    It is a file, a folder, a glob or a series, `{000..009}.tar`. Raises FileNotFoundError where a series has
    gaps, InputError for compressed archives.
    """
    system, path = filesystem(source)
    if path.lower().endswith(_PACKED):
        raise InputError(
            f"{shown(source)}: pictures of a compressed archive cannot be read where they lie; make it a .tar"
        )
    if system.isfile(path):
        files = [path]
    elif system.isdir(path):
        files = [str(file) for file in system.ls(path, detail=False)]
    elif path.lower().endswith(".tar") and _RANGE.search(path):
        files = _series(path)
        missing = [file for file in files if not system.isfile(file)]
        if missing:
            raise FileNotFoundError(
                f"{shown(source)}: {len(missing)} of {len(files)} files are missing (first: {missing[0]})"
            )
    else:
        pattern = glob_pattern(system, path)
        files = [str(file) for file in system.glob(pattern)] if pattern else []
    if any(is_table(file) for file in files):
        return []
    shards = sorted(file for file in files if _is_shard(file))
    return [str(system.unstrip_protocol(file)) for file in shards] if "://" in source else shards


def _series(path: str) -> list[str]:
    """`a{08..11}b` as a08b, a09b, a10b, a11b; several ranges combine."""
    paths = [path]
    while found := _RANGE.search(paths[0]):
        first, last = found.groups()
        width = len(first) if first.startswith("0") else 0
        numbers = range(int(first), int(last) + 1)
        if not numbers or len(paths) * len(numbers) > _MAX_SERIES:
            raise InputError(f"{shown(path)}: {found[0]} is no series of 1 to {_MAX_SERIES} files")
        paths = [one.replace(found[0], f"{number:0{width}d}", 1) for one in paths for number in numbers]
    return paths


def _is_shard(file: str) -> bool:
    name = posixpath.basename(file)
    return name.lower().endswith(".tar") and not name.startswith((".", "_"))
