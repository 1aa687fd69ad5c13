"""Several processes that do the same work until it is done: the first mistake ends them all."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ..features.errors import InputError as FeaturesInputError
from ..recsys.errors import InputError
from ..stages.progress import log_handler, logs_json
from .process import keep_memory


def in_processes(work: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Call `work(*arguments)` in `count` processes, each with its share of the threads; wait for all.

    Raises the InputError or OSError of the first that is stopped by one; then, as after an interrupt, the
    others are ended. A process whose parent is killed ends by itself.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share the threads of torch
    logs = logging.getLogger("mmrec").level, logs_json()
    running: dict[Connection, BaseProcess] = {}
    processes: list[BaseProcess] = []
    try:
        for _ in range(count):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_process, args=(work, arguments, count, sender, logs))
            process.start()
            processes.append(process)
            sender.close()  # so that the end of the process is the end of the pipe
            running[receiver] = process
        while running:
            for receiver in wait(list(running)):
                assert isinstance(receiver, Connection)
                _check(receiver, running.pop(receiver))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _check(receiver: Connection, process: BaseProcess) -> None:
    """Raise what stopped a process that has ended; return if it has done its work."""
    try:
        error = receiver.recv()
    except EOFError:
        process.join()
        raise InputError(
            f"a worker process ended with code {process.exitcode} (killed, or out of memory?); finished work "
            "is kept: run the same command to go on, with fewer workers"
        ) from None
    if error is not None:
        raise error


def _process(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    count: int,
    sender: Connection,
    logs: tuple[int, bool],
) -> None:
    level, as_json = logs
    keep_memory()
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, handlers=[log_handler(as_json)], force=True)
    logging.getLogger("mmrec").setLevel(level)
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        work(*arguments)
    except (FeaturesInputError, InputError, OSError) as error:
        sender.send(error)
    else:
        sender.send(None)


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on in a folder that is no longer locked."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
