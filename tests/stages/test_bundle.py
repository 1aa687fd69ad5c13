from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse

from mmrec.features.files import replace_folder
from mmrec.recsys.models.base import Vectors
from mmrec.stages.bundle import read_bundle, write_bundle

USER_IDS, ITEM_IDS = pl.Series(["ann", "bob"]), pl.Series([7, 3, 5])
ITEMS = np.arange(6, dtype=np.float32).reshape(3, 2)


def write(folder: Path, users: np.ndarray | sparse.csr_matrix, model: str = "bpr") -> None:
    tensors = {"weight": torch.ones(2)}
    write_bundle(
        folder, {"model": model}, {"best_epoch": 3}, tensors, (USER_IDS, ITEM_IDS), Vectors(users, ITEMS)
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
    fresh = tmp_path / "model.new"
    fresh.mkdir()
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path == fresh:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(fresh, tmp_path / "model")
    monkeypatch.undo()
    assert not (tmp_path / "model").exists()
    assert read_bundle(tmp_path / "model").config["model"] == "bpr"


def test_no_bundle_says_what_to_run(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="mmrec train"):
        read_bundle(tmp_path / "model")
