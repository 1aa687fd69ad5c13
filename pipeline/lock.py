"""One run at a time in a folder: a lock that dies with its process and says who holds it."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK, _OWNER = ".lock", ".lock-owner"
_own: set[Path] = set()  # folders that this process holds


class LockedError(RuntimeError):
    """Another run holds the folder; the message names its process, host and start."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` exclusively; raises `LockedError` at once when another process holds it, or a part.

    What this process holds already it may hold again: a sweep makes encoders in its own folder.
    """
    place = folder.absolute()
    if place in _own:
        yield
        return
    with _made(folder, {_LOCK}), _held(folder, _LOCK), _owned(folder / f"{_OWNER}.json"):
        _own.add(place)
        try:
            yield
        finally:
            _own.remove(place)


@contextlib.contextmanager
def locked_part(folder: Path, part: str) -> Iterator[None]:
    """Hold a part of the work in `folder`, beside those who hold other parts; raises `LockedError` at once
    when another process holds this part, or the folder exclusively.
    """
    name = part.replace("/", "-of-")
    with (
        _made(folder, {_LOCK, f"{_LOCK}-{name}"}),
        _held(folder, f"{_LOCK}-{name}"),
        _shared(folder),
        _owned(folder / f"{_OWNER}-{name}.json"),
    ):
        yield


@contextlib.contextmanager
def _held(folder: Path, name: str) -> Iterator[None]:
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _in_use(folder) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _shared(folder: Path) -> Iterator[None]:
    """Hold the lock of `locked` as many may at the same time: FileLock has flock's exclusive mode alone."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise _in_use(folder) from None
        yield
    finally:
        os.close(descriptor)  # releases it


@contextlib.contextmanager
def _owned(note: Path) -> Iterator[None]:
    """Leave word of who holds the lock."""
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    owner = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    try:
        note.write_text(json.dumps(owner), encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)


@contextlib.contextmanager
def _made(folder: Path, locks: set[str]) -> Iterator[None]:
    """Make the folder; take what was made away again if nothing but these locks came into it: a refused run
    leaves nothing."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in made:
            if path.is_dir() and {file.name for file in path.iterdir()} <= locks:
                for lock in locks:
                    (path / lock).unlink(missing_ok=True)
                path.rmdir()


def _in_use(folder: Path) -> LockedError:
    return LockedError(f"{folder} is in use by another run{_owner(folder)}; wait for it or stop it")


def _owner(folder: Path) -> str:
    # A courtesy: the lock itself is the operating system's, so a missing or torn note is no error.
    try:
        notes = sorted(folder.glob(f"{_OWNER}*.json"), key=lambda note: note.stat().st_mtime)
        owner = json.loads(notes[-1].read_text(encoding="utf-8"))
        return f" (process {owner['process']} on {owner['host']}, since {owner['since']})"
    except (OSError, ValueError, KeyError, IndexError):
        return ""
