"""One run at a time in a folder: a lock that dies with its process and says who holds it."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


class LockedError(RuntimeError):
    """Another run holds the folder; the message names its process, host and start."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` exclusively; raises `LockedError` at once when another process holds it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    owner_file = folder / ".lock-owner.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(
            f"{folder} is in use by another run{_describe(owner_file)}; wait for it or stop it"
        ) from None
    try:
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        owner = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
        owner_file.write_text(json.dumps(owner), encoding="utf-8")
        yield
    finally:
        owner_file.unlink(missing_ok=True)
        lock.release()
        _remove_empty(made)


def _remove_empty(made: list[Path]) -> None:
    """Take away folders that were made for a lock and hold nothing else: a refused run leaves nothing."""
    for folder in made:
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {".lock"}:
            (folder / ".lock").unlink(missing_ok=True)
            folder.rmdir()


def _describe(owner_file: Path) -> str:
    # A courtesy: the lock itself is the operating system's, so a missing or torn note is no error.
    try:
        owner = json.loads(owner_file.read_text(encoding="utf-8"))
        return f" (process {owner['process']} on {owner['host']}, since {owner['since']})"
    except (OSError, ValueError, KeyError):
        return ""
