"""One run at a time in a folder: a lock that dies with its process and says who holds it.

The lock is the operating system's. Where a network file system does not carry it to other hosts, the note
that the holder leaves does: it is touched every `BEAT` seconds, so that a host that has vanished is told from
one that works.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..stages.meter import duration

log = logging.getLogger(__name__)

BEAT = 10.0  # seconds between signs of life
_SILENCE = 3  # beats without one, after which the holder on another host is gone
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


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a folder, or held it and was killed."""

    process: int
    host: str
    since: str  # ISO 8601

    @property
    def age(self) -> float:
        """Seconds since then."""
        began = datetime.datetime.fromisoformat(self.since)
        return (datetime.datetime.now(datetime.UTC) - began).total_seconds()

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}, {duration(self.age)} ago"


def owner_of(folder: Path) -> Owner | None:
    """Who left word in `folder` last; None where nobody did, or the note is torn."""
    notes = [(_modified(note) or 0, note) for note in folder.glob(f"{_OWNER}*.json")]
    return _read(max(notes)[1]) if notes else None


def is_alive(folder: Path) -> bool:
    """Whether who left word in `folder` last is at work: a process of this host, or one of another that has
    given a sign of life of late."""
    owner = owner_of(folder)
    if owner is None:
        return False
    if owner.host != socket.gethostname():
        last = max((_modified(note) or 0 for note in folder.glob(f"{_OWNER}*.json")), default=0)
        return time.time() - last / 1e9 < _SILENCE * BEAT
    try:
        os.kill(owner.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


@contextlib.contextmanager
def _owned(note: Path) -> Iterator[None]:
    """Leave word of who holds the lock, and signs of life; LockedError where another host does so."""
    before = _read(note)
    if before is not None:
        _take_over(note, before)
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    owner = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(note, ended), name="lock", daemon=True)
    try:
        note.write_text(json.dumps(owner), encoding="utf-8")
        heart.start()
        yield
    finally:
        ended.set()
        if heart.is_alive():
            heart.join()
        note.unlink(missing_ok=True)


def _take_over(note: Path, before: Owner) -> None:
    """Return once it is sure that `before`, whose lock is free here, has ended without taking its note along.

    A process of this host has. One of another host may hold a lock that is not seen here: then it gives a
    sign of life before long.
    """
    if before.host != socket.gethostname():
        last = _modified(note)
        log.info("%s was held by %s; waiting for a sign of life", note.parent, before)
        for _ in range(_SILENCE):
            time.sleep(BEAT)
            if _modified(note) not in (last, None):
                raise LockedError(
                    f"{note.parent} is in use by another run ({before}); wait for it or stop it"
                )
    log.warning("%s: taken over from %s, which was killed", note.parent, before)


def _beat(note: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):  # a file system that is away for a while
            os.utime(note)


def _modified(note: Path) -> int | None:
    try:
        return note.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _read(note: Path) -> Owner | None:
    try:
        owner = json.loads(note.read_text(encoding="utf-8"))
        return Owner(int(owner["process"]), str(owner["host"]), str(owner["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
    owner = owner_of(folder)  # a courtesy: the lock is the system's, whoever left word or did not
    who = f" ({owner})" if owner else ""
    return LockedError(f"{folder} is in use by another run{who}; wait for it or stop it")
