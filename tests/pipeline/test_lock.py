import json
import logging
import os
import subprocess
import sys
import threading

import pytest

from mmrec.pipeline import lock
from mmrec.pipeline.lock import LockedError, is_alive, locked, locked_part

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
    with pytest.raises(LockedError, match=rf"process {holder.pid} on .*, \d+ s ago"), locked(tmp_path):
        pass
    assert is_alive(tmp_path)


def test_the_lock_of_a_killed_process_is_free(holder, tmp_path) -> None:
    holder.kill()
    holder.wait()
    assert not is_alive(tmp_path)
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


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The note of a process on another host, whose lock is not seen here."""
    monkeypatch.setattr(lock, "BEAT", 0.05)
    note = tmp_path / ".lock-owner.json"
    note.write_text(json.dumps({"process": 1, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"}))
    return note


def test_a_host_that_gives_signs_of_life_holds_what_it_holds(elsewhere, tmp_path) -> None:
    ended = threading.Event()
    heart = threading.Thread(target=lock._beat, args=(elsewhere, ended))
    heart.start()
    with pytest.raises(LockedError, match=r"process 1 on elsewhere, since .* ago"), locked(tmp_path):
        pass
    assert is_alive(tmp_path)
    ended.set()
    heart.join()
    assert json.loads(elsewhere.read_text())["host"] == "elsewhere"


def test_a_host_that_has_vanished_is_taken_over_from(elsewhere, tmp_path, caplog) -> None:
    os.utime(elsewhere, (0, 0))
    assert not is_alive(tmp_path)
    with caplog.at_level(logging.WARNING), locked(tmp_path):
        assert json.loads(elsewhere.read_text())["process"] == os.getpid()
    assert "taken over from process 1 on elsewhere" in caplog.text
    assert not elsewhere.exists()
