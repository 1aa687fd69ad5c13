"""Durable writes and digests: a file is either its old or its new self, whenever the job is killed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success sync it and rename it to `target`.

    When the block raises (a full disk, an interrupt) the temporary is removed and `target` is untouched.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(target)  # a full disk does not say what was being written
        raise
    _sync(target.parent)


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write `obj` atomically as indented JSON, keys in their own order; NaN is refused (ValueError)."""
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def digest_bytes(content: bytes) -> str:
    """32 hex digits of BLAKE2b: the name of a content, not a defence against forgery."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_json(obj: Any) -> str:
    """`digest_bytes` of the canonical JSON of `obj`: equal values give equal digests, 7 and "7" do not."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return digest_bytes(text.encode("utf-8", "surrogatepass"))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The checksum that `sha256sum` prints for the file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_stale_temporaries(folder: str | os.PathLike[str], min_age: float = 0.0) -> int:
    """Remove what killed writers left in `folder` at least `min_age` seconds ago; return how many files."""
    removed = 0
    for path in Path(folder).glob(".*.tmp"):
        try:
            if time.time() - path.stat().st_mtime >= min_age:
                path.unlink()
                removed += 1
        except FileNotFoundError:  # its writer has just finished
            continue
    return removed


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block succeeds.

    When it raises, `folder` stays as it was; a kill between the two renames is mended by `recover_folder`.
    """
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        for path in (*fresh.rglob("*"), fresh):
            _sync(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """After a kill in `fresh_folder`: put the previous folder back, or remove it if the new one is there."""
    old = folder.with_name(folder.name + ".old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def point_link(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target` in one step: whoever follows it finds the one that it
    named before, or `target`. InputError where a folder stands in its place."""
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")
    temporary.symlink_to(os.path.relpath(target, link.parent))
    try:
        temporary.replace(link)
    except IsADirectoryError as error:  # as after a copy that has followed links
        raise InputError(f"{link} is a folder, expected a link; move it away, and try again") from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync(link.parent)


def _sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
