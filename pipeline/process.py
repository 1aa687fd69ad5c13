"""Settings of the whole process that make training fast and a good neighbour to other jobs."""

from __future__ import annotations

import ctypes
import os

SPINS = 1000  # looks at the lock before a thread that waits goes to sleep, some microseconds
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_KEPT = 2**28, 2**25  # bytes of the largest array that is kept when freed; older glibc takes the second
_FREE = 2**31 - 1  # bytes at the end of the heap that may lie free between steps


def settle_process() -> None:
    """Call before torch or FAISS is loaded; variables that the user has set stay (docs/performance.md).

    Waiting threads look for work for a moment, then sleep. Freed memory is kept for the next step: a training
    step allocates what the last one freed, and pages that go back to the system cost a fault and a zeroing
    each on their way in again.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    keep_memory()


def keep_memory() -> None:
    """The memory part, for child processes, which inherit the variables alone. Nothing without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if mallopt is None or chosen:
        return
    for size in _KEPT:  # either call alone would freeze the other threshold, which glibc adapts otherwise
        if mallopt(_MMAP_THRESHOLD, size):
            mallopt(_TRIM_THRESHOLD, _FREE)
            return
