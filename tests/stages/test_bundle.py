import errno
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import SafetensorError
from scipy import sparse

from mmrec.features import tensors
from mmrec.features.errors import InputError
from mmrec.recsys.models.base import Vectors
from mmrec.stages.bundle import read_bundle, write_bundle
from mmrec.stages.lineage import read_lineage

USER_IDS, ITEM_IDS = pl.Series(["ann", "bob"]), pl.Series([7, 3, 5])
ITEMS = np.arange(6, dtype=np.float32).reshape(3, 2)


def write(folder: Path, users: np.ndarray | sparse.csr_matrix, model: str = "bpr") -> None:
    config = {"model": model, "lineage": {"code": "1"}}
    write_bundle(
        folder,
        config,
        {"best_epoch": 3},
        {"weight": torch.ones(2)},
        (USER_IDS, ITEM_IDS),
        Vectors(users, ITEMS),
    )


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_ids_keep_their_types_and_vectors_their_values(tmp_path, make) -> None:
    users = np.array([[0.0, 1.5], [0.0, 0.0]], dtype=np.float32)
    write(tmp_path / "model", make(users))
    bundle = read_bundle(tmp_path / "model")
    assert bundle.user_ids.to_list() == ["ann", "bob"] and bundle.item_ids.to_list() == [7, 3, 5]
    assert sparse.issparse(bundle.vectors.users) == (make is sparse.csr_matrix)
    dense = bundle.vectors.users.toarray() if sparse.issparse(bundle.vectors.users) else bundle.vectors.users
    np.testing.assert_array_equal(dense, users)
    np.testing.assert_array_equal(bundle.vectors.items, ITEMS)


def test_polars_reads_the_vectors(tmp_path) -> None:
    write(tmp_path / "model", ITEMS[:2])
    table = pl.read_parquet(tmp_path / "model" / "items.parquet")
    assert table.schema == {"item_id": pl.Int64, "vector": pl.Array(pl.Float32, 2)}


def test_a_second_bundle_replaces_the_first_and_leaves_nothing_beside_it(tmp_path) -> None:
    write(tmp_path / "model", ITEMS[:2], "bpr")
    write(tmp_path / "model", ITEMS[:2], "vbpr")
    assert read_bundle(tmp_path / "model").config["model"] == "vbpr"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_two_renames_leaves_the_old_bundle(tmp_path, monkeypatch) -> None:
    write(tmp_path / "model", ITEMS[:2], "bpr")
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.name == "model.new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "model", ITEMS[:2], "vbpr")
    monkeypatch.undo()
    assert not (tmp_path / "model").exists()
    assert read_bundle(tmp_path / "model").config["model"] == "bpr"


def test_a_full_disk_leaves_the_old_bundle_and_nothing_half_written(tmp_path, monkeypatch) -> None:
    write(tmp_path / "model", ITEMS[:2], "bpr")

    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match="No space left") as failure:
        write(tmp_path / "model", ITEMS[:2], "vbpr")
    assert failure.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert read_bundle(tmp_path / "model").config["model"] == "bpr"


@pytest.mark.parametrize("file", ["config.json", "users.parquet", "items.parquet"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_bundle_is_not_up_to_date_and_says_what_to_run(tmp_path, file, damage) -> None:
    write(tmp_path / "model", ITEMS[:2])
    path = tmp_path / "model" / file
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    assert read_lineage(tmp_path / "model" / "config.json", "lineage") is None
    with pytest.raises((InputError, FileNotFoundError), match="mmrec train"):
        read_bundle(tmp_path / "model")


def test_no_bundle_says_what_to_run(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="mmrec train"):
        read_bundle(tmp_path / "model")
