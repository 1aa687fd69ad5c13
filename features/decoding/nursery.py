"""Where a process gets its decoding workers from: one nursery for all of its pools."""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from .letters import receive, send

log = logging.getLogger(__name__)

_START = """
import json, sys
path, file, parent = json.loads(sys.argv[1])
sys.path[:] = path
from {package} import nursery_main
nursery_main.main(file, parent)
"""
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class NurseryError(InputError):
    """Decoding workers cannot be had, most likely for want of memory or processes."""


class Nursery:
    """A process that forks workers; see `nursery_main`."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._lock = threading.Lock()
        self._link, other = socket.socketpair()
        start, told = _START.format(package=__package__), [sys.path, other.fileno(), self.owner]
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", start, json.dumps(told)],
                env={**os.environ, **_ONE_THREAD},
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # a Ctrl-C in the terminal is the caller's alone
            )
            other.close()
            if receive(self._link) is None:
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
                raise NurseryError(f"the decoding process did not start: {lines[-1]}")

    def fork(self, order: dict[str, Any], files: Sequence[int]) -> int:
        """The process id of a new worker; `files` are its socket and the files of its shared memory."""
        return self._ask(order, files)["pid"]

    def end(self, pid: int) -> int | None:
        """Kill a worker; its exit status, negative for a signal, is that of its own end if it came first.

        None where even a kill did not end it.
        """
        return self._ask({"end": pid}, ())["status"]

    def _ask(self, request: dict[str, Any], files: Sequence[int]) -> dict[str, Any]:
        with self._lock:
            try:
                send(self._link, request, files)
                letter = receive(self._link)
            except OSError as error:
                raise NurseryError(f"the decoding process is gone ({error})") from error
        if letter is None:
            raise NurseryError(f"the decoding process is gone (status {self._process.poll()})")
        return letter[0]

    def close(self) -> None:
        """End it, and its workers with it."""
        self._process.kill()
        self._process.wait()
        self._link.close()


_current: Nursery | None = None
_current_lock = threading.Lock()
_exiting = False


def nursery() -> Nursery:
    """This process's nursery, started where there is none yet."""
    global _current
    with _current_lock:
        if _current is None or _current.owner != os.getpid():
            if _exiting:
                raise NurseryError("the process is about to exit")
            _current = Nursery()
        return _current


def forget(gone: Nursery) -> None:
    """Let the next call of `nursery` start another."""
    global _current
    with _current_lock:
        if _current is gone:
            _current = None


@atexit.register
def _close() -> None:
    global _exiting
    with _current_lock:
        _exiting = True
        if _current is not None and _current.owner == os.getpid():
            _current.close()
