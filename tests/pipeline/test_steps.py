import errno

import pytest

from mmrec.pipeline.steps import Steps, may_pass


def wrapped(cause: BaseException) -> ValueError:
    error = ValueError("unreadable")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.EIO, "input/output error"), True),
        (TimeoutError("timed out"), True),
        (OSError("the endpoint is not available"), True),
        (wrapped(ConnectionResetError(104, "reset")), True),
        (FileNotFoundError(2, "gone"), False),
        (PermissionError(13, "denied"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (wrapped(FileNotFoundError(2, "gone")), False),
        (ValueError("no such column"), False),
    ],
)
def test_what_waiting_may_mend(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


def test_waits_grow_and_the_last_error_is_raised() -> None:
    waits: list[float] = []
    steps = Steps(retries=3, backoff=10, sleep=waits.append)

    def fails() -> None:
        raise OSError(errno.EIO, "again")

    with pytest.raises(OSError, match="again"):
        steps.do("features", fails)
    assert waits == [10, 20, 40]
    assert (steps.done[0].status, steps.done[0].attempts) == ("failed", 4)


def test_a_mistake_is_not_tried_again() -> None:
    steps = Steps(retries=3, sleep=lambda _: pytest.fail("waited"))
    with pytest.raises(FileNotFoundError):
        steps.do("features", lambda: open("/nowhere/at/all"))  # noqa: PTH123, SIM115
