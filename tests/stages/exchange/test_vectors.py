"""Exports of features and of a model's vectors, read by the tools that they are for."""

from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pytest
import torch
from scipy import sparse

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.errors import InputError
from mmrec.features.store import FeatureStore
from mmrec.recsys.config import IndexConfig, InteractionsConfig
from mmrec.recsys.models.base import Vectors
from mmrec.stages.bundle import write_bundle
from mmrec.stages.dataset import digest_dataset, load_dataset
from mmrec.stages.exchange.formats import WRITERS
from mmrec.stages.exchange.names import ExportFormat
from mmrec.stages.exchange.run_data import RunData
from mmrec.stages.extract import extract
from mmrec.stages.index import build

N_ITEMS = 40
FEATURES = np.random.default_rng(1).standard_normal((N_ITEMS, 3)).astype(np.float16)
FEATURES[5] = np.nan
ITEMS = np.random.default_rng(2).standard_normal((N_ITEMS, 6)).astype(np.float32)
USERS = np.random.default_rng(3).standard_normal((2, 6)).astype(np.float32)


def trained(
    folder: Path,
    item_ids: list[int] | list[str],
    users: np.ndarray | sparse.csr_matrix = USERS,
    kind: str = "flat",
) -> RunData:
    """A run folder of two users with features, a model and its index."""
    folder.mkdir()
    items = pl.Series("item_id", item_ids)
    items.to_frame().write_parquet(folder / "items.parquet")
    np.save(folder / "visual.npy", FEATURES)
    catalog = CatalogConfig(items=str(folder / "items.parquet"))
    extract(catalog, ExtractConfig(foreign={"visual": str(folder / "visual.npy")}), folder / "features")
    log = {"user_id": [8, 8, 9], "item_id": items[[0, 1, 2]], "split": ["train", "test", "train"]}
    pl.DataFrame(log).write_parquet(folder / "log.parquet")
    interactions = InteractionsConfig(path=str(folder / "log.parquet"), split="column")
    store = FeatureStore(folder / "features")
    dataset = load_dataset(interactions, store)
    config = {"model": "bpr", "lineage": {"interactions": digest_dataset(dataset)}}
    ids = (dataset.user_ids, dataset.item_ids)
    write_bundle(folder / "model", config, {}, {"weight": torch.ones(1)}, ids, Vectors(users, ITEMS))
    build(folder / "model", folder / "index", IndexConfig(kind=kind, device="cpu"))  # pyright: ignore
    return RunData(folder, interactions, catalog, store)


def export(kind: str, run: RunData, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    WRITERS[ExportFormat(kind)](run, out, "shop", {})
    return out


@pytest.mark.parametrize("item_ids", [list(range(7, 7 + N_ITEMS)), [f"{n:03d}" for n in range(N_ITEMS)]])
def test_numpy_reads_ids_features_and_vectors(tmp_path, item_ids) -> None:
    out = export("numpy", trained(tmp_path / "run", item_ids), tmp_path)
    loaded = {path.stem: np.load(path) for path in out.glob("*.npy")}
    assert loaded["item_ids"].tolist() == item_ids and loaded["user_ids"].tolist() == [8, 9]
    assert loaded["visual"].tobytes() == FEATURES.tobytes()
    np.testing.assert_array_equal(loaded["users"] @ loaded["items"].T, USERS @ ITEMS.T)


def test_users_that_are_histories_stay_sparse(tmp_path) -> None:
    users = sparse.csr_matrix(np.array([[0, 1, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0]], np.float32))
    out = export("numpy", trained(tmp_path / "run", list(range(N_ITEMS)), users), tmp_path)
    assert (sparse.load_npz(out / "users.npz") != users).nnz == 0


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_polars_reads_an_id_and_its_vectors_in_one_row(tmp_path, kind: str) -> None:
    out = export(kind, trained(tmp_path / "run", [f"{n:03d}" for n in range(N_ITEMS)]), tmp_path)
    read = pl.read_parquet if kind == "parquet" else pl.read_ipc
    items = read(out / f"items.{kind}")
    assert items.schema == {
        "item_id": pl.String, "visual": pl.Array(pl.Float16, 3), "vector": pl.Array(pl.Float32, 6)
    }  # fmt: skip
    assert items["visual"].is_null().arg_true().to_list() == [5]
    kept = np.delete(np.arange(N_ITEMS), 5)
    found = np.array(items["visual"].gather(kept).to_list(), np.float16)
    assert found.tobytes() == FEATURES[kept].tobytes()
    np.testing.assert_array_equal(items["vector"].to_numpy(), ITEMS)
    np.testing.assert_array_equal(read(out / f"users.{kind}")["vector"].to_numpy(), USERS)
    assert read(out / f"interactions.{kind}")["split"].to_list() == ["train", "train", "test"]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-flat", "ivf-pq"])
def test_faiss_answers_with_the_items_own_numbers(tmp_path, kind: str) -> None:
    ids = [10**12 + 3 * n for n in range(N_ITEMS)]
    out = export("faiss", trained(tmp_path / "run", ids, kind=kind), tmp_path)
    index = faiss.read_index(str(out / "items.faiss"))
    assert isinstance(index, faiss.IndexIDMap2) and index.ntotal == N_ITEMS
    queries = np.pad(USERS, ((0, 0), (0, index.d - USERS.shape[1])))
    plain = faiss.read_index(str(tmp_path / "run" / "index" / "items.faiss"))
    scores, found = index.search(queries, 5)
    expected_scores, rows = plain.search(queries, 5)
    np.testing.assert_array_equal(scores, expected_scores)
    assert found.tolist() == [[ids[row] for row in one] for one in rows]


def test_faiss_has_ids_that_are_strings_in_a_table_beside_it(tmp_path) -> None:
    names = [f"{n:03d}" for n in range(N_ITEMS)]
    out = export("faiss", trained(tmp_path / "run", names), tmp_path)
    ids = pl.read_parquet(out / "ids.parquet")
    assert ids["item_id"].to_list() == names
    _, rows = faiss.read_index(str(out / "items.faiss")).search(USERS, 1)
    assert rows[:, 0].tolist() == (USERS @ ITEMS.T).argmax(axis=1).tolist()


def test_features_of_other_items_than_the_model_knows_are_not_exported_beside_it(tmp_path) -> None:
    run = trained(tmp_path / "run", list(range(N_ITEMS)))
    pl.DataFrame({"item_id": list(range(1, N_ITEMS + 1))}).write_parquet(tmp_path / "run" / "items.parquet")
    config = ExtractConfig(foreign={"visual": str(tmp_path / "run" / "visual.npy")})
    extract(run.catalog, config, tmp_path / "run" / "features")
    later = RunData(run.folder, run.interactions, run.catalog, FeatureStore(tmp_path / "run" / "features"))
    with pytest.raises(InputError, match="trained before they were extracted"):
        export("numpy", later, tmp_path)
