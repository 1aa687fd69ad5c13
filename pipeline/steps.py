"""The stages of a run one after the other: timed, tried again where an error may pass, and told of."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

RUNNING, DONE, FAILED = "running", "done", "failed"
# What no waiting mends: a name that is wrong, a right that is missing, a disk that is full.
_LASTING = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
_LASTING_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP}


@dataclass(slots=True)
class Step:
    """One stage of a run; `up_to_date` is None of a stage that makes nothing that could be reused."""

    name: str
    status: str = RUNNING
    attempts: int = 0
    seconds: float = 0.0
    up_to_date: bool | None = None
    changed: list[str] = field(default_factory=list)  # why it was made anew
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Steps:
    """Does stages and keeps an account of each; `heard` is called whenever the account has changed."""

    def __init__(
        self,
        retries: int = 0,
        backoff: float = 0.0,
        heard: Callable[[], None] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.done: list[Step] = []
        self._retries, self._backoff, self._heard, self._sleep = retries, backoff, heard, sleep

    def do(self, name: str, work: Callable[[], T]) -> T:
        """What `work` gives back, a report perhaps. An error that may pass is waited for, `backoff` seconds
        at first and twice as long each time; the last one is raised, as is any other at once."""
        step = Step(name)
        self.done.append(step)
        self._heard()
        started = time.perf_counter()
        try:
            result = self._tried(step, work)
            step.status = DONE
            step.up_to_date = getattr(result, "up_to_date", None)
            step.changed = list(getattr(result, "changed", []))
            step.facts = _facts(result)
            return result
        finally:
            step.status = FAILED if step.status == RUNNING else step.status
            step.seconds = time.perf_counter() - started
            self._heard()

    def _tried(self, step: Step, work: Callable[[], T]) -> T:
        while True:
            step.attempts += 1
            try:
                return work()
            except (OSError, ValueError) as error:
                if step.attempts > self._retries or not may_pass(error):
                    raise
                wait = self._backoff * 2 ** (step.attempts - 1)
                log.warning(
                    "%s: %s; once more in %.0f s (attempt %d of %d)",
                    step.name,
                    error,
                    wait,
                    step.attempts + 1,
                    self._retries + 1,
                )
            self._sleep(wait)


def may_pass(error: BaseException | None) -> bool:
    """Whether `error` is, or was raised for, a failure of a disk or a network that may be gone later."""
    while error is not None:
        if isinstance(error, _LASTING):
            return False
        if isinstance(error, OSError):
            return error.errno not in _LASTING_NUMBERS
        error = error.__cause__
    return False


def _facts(report: Any) -> dict[str, Any]:
    """The plain figures of a report: numbers and words, not what stands in files anyway."""
    names = getattr(report, "__slots__", ())
    values = {name: getattr(report, name) for name in names}
    plain = {name: value for name, value in values.items() if isinstance(value, int | float | str | bool)}
    reasons = {"reasons": values["reasons"]} if values.get("reasons") else {}
    return {name: value for name, value in plain.items() if name not in ("up_to_date", "seconds")} | reasons
