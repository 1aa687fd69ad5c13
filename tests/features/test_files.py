import errno
import os
from pathlib import Path

import pytest

from mmrec.features import files
from mmrec.features.files import (
    atomic_path,
    digest_bytes,
    digest_json,
    file_sha256,
    fresh_folder,
    recover_folder,
    remove_stale_temporaries,
    write_json,
)


def test_atomic_path_replaces_the_target_at_the_end_only(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_path(target) as unfinished:
        unfinished.write_text("new")
        assert unfinished.parent == tmp_path and unfinished.name.startswith(".")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_alone(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(interruption), atomic_path(target) as unfinished:
        unfinished.write_text("half")
        raise interruption
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_disk_that_fills_up_at_the_sync_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "a.json", {"x": 1})
    assert list(tmp_path.iterdir()) == []


def test_json_keeps_the_order_of_keys_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": ["é"]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": [\n    "é"\n  ]\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"b": float("nan")})
    assert '"é"' in path.read_text(encoding="utf-8")


def test_digests_tell_values_apart_and_not_the_order_of_keys(tmp_path: Path) -> None:
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})
    assert len({digest_json(value) for value in (7, "7", [7], None, 7.5)}) == 5
    assert digest_bytes(b"") == "cae66941d9efbd404e4d88758ea67670"  # BLAKE2b-128 of nothing
    (tmp_path / "empty").touch()
    assert file_sha256(tmp_path / "empty").startswith("e3b0c44298fc1c14")


def test_only_abandoned_temporaries_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.json.0123abcd.tmp").touch()
    (tmp_path / "kept.tmp").touch()
    assert remove_stale_temporaries(tmp_path, min_age=60) == 0
    assert remove_stale_temporaries(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kept.tmp"]


@pytest.mark.parametrize("renames", [1, 2])
def test_a_folder_is_its_old_or_its_new_self_after_a_kill(tmp_path, monkeypatch, renames: int) -> None:
    folder, rename, done = tmp_path / "model", Path.rename, []
    folder.mkdir()
    (folder / "a").write_text("old")

    def killed(self: Path, target: Path) -> None:
        rename(self, target)
        done.append(target)
        if len(done) == renames:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), fresh_folder(folder) as fresh:
        (fresh / "a").write_text("new")
        patched.setattr(Path, "rename", killed)
    recover_folder(folder)
    assert (folder / "a").read_text() == ("old", "new")[renames - 1]
    assert not (tmp_path / "model.old").exists()


def test_files_of_inner_folders_are_synced_too(tmp_path, monkeypatch) -> None:
    synced = []
    monkeypatch.setattr(files, "_sync", synced.append)
    with fresh_folder(tmp_path / "encoder") as fresh:
        (fresh / "text").mkdir()
        (fresh / "text" / "weights").write_text("")
    assert {path.name for path in synced} >= {"weights", "text", "encoder.new"}
