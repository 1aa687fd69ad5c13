"""What the command line sets for the whole process, and what it leaves to the user."""

import ctypes
import os

import pytest

from mmrec.pipeline import process


class OldGlibc:
    """Takes no mmap threshold above 32 MiB, as glibc before 2.35."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        if parameter == -3 and value > 2**25:
            return 0
        self.taken.append((parameter, value))
        return 1


@pytest.fixture
def glibc(monkeypatch: pytest.MonkeyPatch) -> OldGlibc:
    for name in [name for name in os.environ if name.startswith("MALLOC_")] + ["GLIBC_TUNABLES"]:
        monkeypatch.delenv(name, raising=False)
    library = OldGlibc()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    return library


def test_a_threshold_that_is_refused_is_not_left_half_set(glibc: OldGlibc) -> None:
    process.keep_memory()
    assert glibc.taken == [(-3, 2**25), (-1, 2**31 - 1)]


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_the_users_own_settings_of_memory_stay(glibc: OldGlibc, monkeypatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    process.keep_memory()
    assert glibc.taken == []


@pytest.mark.parametrize(("policy", "spins"), [("ACTIVE", None), (None, "1000")])
def test_threads_spin_for_a_moment_unless_the_user_says_how_they_wait(
    glibc: OldGlibc, monkeypatch, policy: str | None, spins: str | None
) -> None:
    for name, value in (("OMP_WAIT_POLICY", policy), ("GOMP_SPINCOUNT", None)):
        monkeypatch.setenv(name, value or "")  # so that what is set here is undone
        if value is None:
            monkeypatch.delenv(name)
    process.settle_process()
    assert os.environ["OMP_WAIT_POLICY"] == (policy or "PASSIVE")
    assert os.environ.get("GOMP_SPINCOUNT") == spins
