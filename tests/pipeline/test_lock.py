import json
import subprocess
import sys

import pytest

from mmrec.pipeline.lock import LockedError, locked, locked_part

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


def test_a_process_may_hold_its_own_folder_twice(tmp_path) -> None:
    with locked(tmp_path):
        with locked(tmp_path / "."):
            pass
        with pytest.raises(LockedError), locked_part(tmp_path, "0/2"):
            pass
    with locked_part(tmp_path, "0/2"):
        pass


def test_a_folder_made_for_the_lock_alone_goes_with_it(tmp_path) -> None:
    with pytest.raises(ValueError), locked(tmp_path / "new" / "run"):
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_parts_stand_side_by_side_and_the_whole_stands_alone(tmp_path) -> None:
    with locked_part(tmp_path, "0/2"), locked_part(tmp_path, "1/2"):
        for other in (locked(tmp_path), locked_part(tmp_path, "1/2")):
            with pytest.raises(LockedError, match="in use by another run"), other:
                pass
    with locked(tmp_path), pytest.raises(LockedError), locked_part(tmp_path, "0/2"):
        pass
    with locked_part(tmp_path, "0/2"):
        pass


def test_a_part_is_refused_by_a_run_in_another_process(holder, tmp_path) -> None:
    with pytest.raises(LockedError, match=f"process {holder.pid} on "), locked_part(tmp_path, "0/2"):
        pass


def test_a_part_that_came_to_nothing_takes_its_folder_away_unless_another_is_there(tmp_path) -> None:
    folder = tmp_path / "new"
    with pytest.raises(ValueError), locked_part(folder, "0/2"):
        raise ValueError
    assert not folder.exists()
    with pytest.raises(ValueError), locked_part(folder, "0/2"), locked_part(folder, "1/2"):
        raise ValueError
