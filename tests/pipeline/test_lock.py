import json
import subprocess
import sys

import pytest

from mmrec.pipeline.lock import LockedError, locked

HOLDER = """
import pathlib, sys
from mmrec.pipeline.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_and_told_who_holds_the_folder(holder, tmp_path) -> None:
    with pytest.raises(LockedError, match=f"process {holder.pid} on "), locked(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_free(holder, tmp_path) -> None:
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock-owner.json").read_text())["process"] != holder.pid


def test_a_folder_made_for_the_lock_alone_goes_with_it(tmp_path) -> None:
    with pytest.raises(ValueError), locked(tmp_path / "new" / "run"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []
