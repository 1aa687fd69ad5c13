import ctypes

from mmrec.pipeline import resources
from mmrec.pipeline.resources import gpu_energy, peak_memory


class Nvml:
    """Two GPUs; the second does not count."""

    nvmlInit_v2 = nvmlShutdown = staticmethod(lambda: 0)

    @staticmethod
    def nvmlDeviceGetCount_v2(count) -> int:
        count._obj.value = 2
        return 0

    @staticmethod
    def nvmlDeviceGetHandleByIndex_v2(index, device) -> int:
        device._obj.value = index.value + 1
        return 0

    @staticmethod
    def nvmlDeviceGetName(device, name, _length) -> int:
        name.value = b"H200"
        return 0

    @staticmethod
    def nvmlDeviceGetTotalEnergyConsumption(device, millijoules) -> int:
        millijoules._obj.value = 2_500
        return 0 if device.value == 1 else 3


def test_the_energy_of_every_gpu_that_counts_it(monkeypatch) -> None:
    assert gpu_energy("no-such-library.so") is None
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Nvml)
    assert gpu_energy() == {"0: H200": 2.5}


def test_peak_memory_never_falls() -> None:
    before = peak_memory()["peak_memory_mb"]
    block = bytearray(64 * 2**20)
    assert peak_memory()["peak_memory_mb"] >= before > 1
    del block
    assert resources.peak_memory_of_children() >= 0
