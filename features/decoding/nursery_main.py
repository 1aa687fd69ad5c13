"""The process that decoding workers are forked from: it has loaded what they need and does nothing else.

So a fresh worker takes milliseconds, has no threads of the caller's and no GPU, and shares its memory.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from typing import Any, NoReturn

from .images import known_formats
from .letters import receive, send
from .worker import work

_PATIENCE = 5.0  # seconds between looks at whether the parent lives, and for the end of a killed worker


def main(file: int, parent: int) -> None:
    """Serve the requests that arrive on the socket `file` until the process `parent` is gone."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the parent decides when work ends
        signal.signal(signum, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    link = socket.socket(fileno=file)
    known_formats()  # loads the decoders once for all workers
    send(link, {})  # ready
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # decoders write their warnings there
    link.settimeout(_PATIENCE)
    while os.getppid() == parent:
        try:
            letter = receive(link, files=8)
        except TimeoutError:
            continue
        if letter is None:
            break
        request, files = letter
        send(link, {"status": _end(request["end"])} if "end" in request else _fork(link, request, files))


def _fork(link: socket.socket, order: dict[str, Any], files: list[int]) -> dict[str, Any]:
    if order["jpegs"]:
        from .jpeg import load_decoder  # loads torch, once for all workers that need it

        load_decoder()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        link.close()
        _be_worker(files, order, parent)
    for file in files:
        os.close(file)
    return {"pid": pid}


def _be_worker(files: list[int], order: dict[str, Any], parent: int) -> NoReturn:
    status = 1
    try:
        work(socket.socket(fileno=files[0]), files[1:], order, parent)
        status = 0
    finally:
        os._exit(status)


def _end(pid: int) -> int | None:
    """Kill a worker that has not ended by itself; its status, or None where even that does not end it."""
    found, status = os.waitpid(pid, os.WNOHANG)
    if not found:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _PATIENCE
    while not found and time.monotonic() < deadline:
        time.sleep(0.001)
        found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None
