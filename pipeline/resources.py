"""What a process has used: its peak memory, that of its children and on the GPU, and the GPUs' energy."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path
from typing import Any

_MB = 2**20
_NVML = "libnvidia-ml.so.1"  # comes with the driver
_DONE = 0  # what NVML's functions return when they have worked


def peak_memory() -> dict[str, float]:
    """Of this process, libraries included, and on the GPU where it has used one; in MB of 2^20 bytes."""
    found = {"peak_memory_mb": _peak_resident_mb()}
    torch: Any = sys.modules.get("torch")  # who has not loaded it has used no GPU
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / _MB
    return found


def peak_memory_of_children() -> float:
    """Of the largest child process that has ended, in MB."""
    return _kilobytes(resource.RUSAGE_CHILDREN) / 1024


def gpu_energy(library: str = _NVML) -> dict[str, float] | None:
    """Joules that each GPU of this machine has used since its driver was loaded, by index and name, whoever
    used it; None where there is no GPU, or none that counts."""
    try:
        nvml: Any = ctypes.CDLL(library)
    except OSError:
        return None
    if nvml.nvmlInit_v2() != _DONE:
        return None
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        used = {}
        for index in range(count.value):
            device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
            name = ctypes.create_string_buffer(96)
            nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(device))
            nvml.nvmlDeviceGetName(device, name, ctypes.c_uint(len(name)))
            if nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)) == _DONE:
                used[f"{index}: {name.value.decode(errors='replace')}"] = millijoules.value / 1000
        return used or None
    finally:
        nvml.nvmlShutdown()


def _peak_resident_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where `getrusage` starts from the peak of the parent
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024
    return _kilobytes(resource.RUSAGE_SELF) / 1024


def _kilobytes(whose: int) -> float:
    peak = resource.getrusage(whose).ru_maxrss
    return peak / 1024 if sys.platform == "darwin" else peak
