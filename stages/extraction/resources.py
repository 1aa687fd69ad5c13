"""What this machine has left: cores, memory, disk; and what a process and its children take."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is, or is to be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def free_memory() -> int | None:
    """Bytes that processes may still take, here or in their container; None where that cannot be known."""
    known = [_meminfo("MemAvailable"), _container_memory()]
    return min((size for size in known if size is not None), default=None)


def memory_of_processes() -> int | None:
    """Bytes of this process and all that it has started; None where that cannot be known."""
    try:
        sizes = {pid: _resident(pid) for pid in (os.getpid(), *_descendants(os.getpid()))}
    except OSError:
        return None
    return sum(sizes.values())


def _resident(pid: int) -> int:
    """Bytes of one process, what it shares with others in equal parts."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except ProcessLookupError:  # it has just ended
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _meminfo(key: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _container_memory() -> int | None:
    """What the limit of version 2 control groups leaves."""
    try:
        most, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current"))
        return int(most) - int(used)
    except (OSError, ValueError):  # no such limit: "max"
        return None
