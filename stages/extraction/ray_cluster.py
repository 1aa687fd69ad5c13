"""A connection to Ray: to a cluster that runs somewhere, or to one that is started here and ends with it."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from ...features.errors import InputError, first_line

_OBJECT_STORE = 100 * 2**20  # bytes, in a cluster of our own: all that is passed around are numbers
_PATIENCE = 60.0  # seconds for a cluster to answer
_PROBE = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); ray.shutdown()"


def load_ray(address: str | None) -> Any:
    """Ray with Ray Data; InputError where that is not installed, or nothing listens at `address`."""
    _settle(address)
    try:
        ray: Any = import_module("ray")
        import_module("ray.data")
    except ImportError as error:
        raise InputError(
            f"--engine ray needs Ray Data ({first_line(error)}): pip install 'mmrec[ray]'"
        ) from error
    if address is not None:
        _check_reachable(address)
    return ray


@contextlib.contextmanager
def cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connected to the cluster; what Ray has to say goes to its own logs, or to stderr.

    Raises InputError without a connection, and when the cluster gives up.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a shard may take its time
    try:
        with _own_signals():
            if address is None:
                ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE, **quiet)
            else:
                ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        where = "a Ray cluster here" if address is None else f"the Ray cluster at {address}"
        raise InputError(f"no connection to {where}: {first_line(error)}") from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Ray tells of workers that died
            yield
    except ray.exceptions.RayTaskError:  # a mistake of ours, with its traceback
        raise
    except ray.exceptions.RayError as error:
        raise InputError(f"Ray gave up: {first_line(error)}; run the same command to go on") from error
    finally:
        ray.shutdown()


def _settle(address: str | None) -> None:
    """Set what Ray looks for when it is imported, as far as the user has not."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of how Ray Data starts actors
    if address is not None:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody has agreed to them
    if not any(name.startswith("RAY_AUTH") for name in os.environ):
        # A cluster of our own has a secret of its own, which Ray would keep in the user's home directory.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray puts one of its own in its place, which exits with 15."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _check_reachable(address: str) -> None:
    """InputError where no cluster answers: Ray would go on trying for long, deaf to signals."""
    location = address.partition("://")[2] if "://" in address else address
    host, colon, port = location.rpartition(":")
    try:
        if colon and port.isdecimal():  # else "auto", or something else that Ray may know
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
        probe = [sys.executable, "-c", _PROBE, address]
        subprocess.run(probe, capture_output=True, text=True, check=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"no Ray cluster at {address}: no answer within {_PATIENCE:.0f} seconds") from error
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        raise InputError(f"no Ray cluster at {address}: {why[0]}") from error
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster at {address}: {first_line(error)}") from error
