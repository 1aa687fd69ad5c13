import re
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from scipy import sparse

from mmrec.recsys.config import IndexConfig
from mmrec.recsys.errors import DivergedError, InputError
from mmrec.recsys.index import build_index, measure, read_index
from mmrec.recsys.ranking import rank_exact

KINDS = ("flat", "hnsw", "ivf-flat", "ivf-pq")


def config(kind: str, **settings) -> IndexConfig:
    return IndexConfig(kind=kind, **{"pq_bytes": 4, **settings})  # pyright: ignore[reportArgumentType]


def clustered(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """500 users and 2,000 items around the same 20 tastes, with lengths that differ."""
    generator = np.random.default_rng(seed)
    tastes = generator.normal(size=(20, 16))
    users = tastes[generator.integers(0, 20, 500)] + 0.3 * generator.normal(size=(500, 16))
    items = tastes[generator.integers(0, 20, 2000)] + 0.3 * generator.normal(size=(2000, 16))
    return users.astype(np.float32), (items * generator.gamma(2, size=(2000, 1))).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_flat_equals_exact_ranking_including_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    users = generator.integers(-2, 3, (60, 4)).astype(np.float32)
    items = generator.integers(-2, 3, (300, 4)).astype(np.float32)
    exclude = sparse.random(60, 300, generator.random(), format="csr", random_state=generator)
    candidates = generator.random(300) < 0.3
    index = build_index(items, config("flat"))
    for k in (1, 20, 400):
        for masks in ((None, None), (exclude, None), (exclude, candidates)):
            found, exact = index.search(users, k, *masks), rank_exact(users, items, k, *masks)
            assert (found.items == exact.items).all()
            assert (found.scores == exact.scores).all()
    assert 0 < index.reranked < index.queries


def test_popularity_scores_tie_for_everybody_and_still_come_in_item_order() -> None:
    items = np.array([[1], [1], [3], [1], [1]], dtype=np.float32)
    index = build_index(items, config("flat"))
    assert index.search(np.ones((2, 1), np.float32), 3).items.tolist() == [[2, 0, 1]] * 2
    assert index.reranked == 2


@pytest.mark.parametrize("kind", KINDS)
def test_seen_items_never_appear_and_lists_stay_full(kind: str) -> None:
    users, items = clustered()
    best = rank_exact(users, items, 300).items
    seen = [row[: 300 if user == 0 else user % 7] for user, row in enumerate(best)]  # the very best ones
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in seen])])
    exclude = sparse.csr_matrix((np.ones(indptr[-1]), np.concatenate(seen), indptr), shape=(500, 2000))
    lists = build_index(items, config(kind)).search(users, 20, exclude).items
    for row, forbidden in zip(lists, seen, strict=True):
        assert len(set(row) - {-1}) == 20
        assert not set(row) & set(forbidden)


@pytest.mark.parametrize("kind", KINDS)
def test_only_candidates_appear(kind: str) -> None:
    users, items = clustered()
    candidates = np.arange(2000) % 400 == 3  # five items
    lists = build_index(items, config(kind)).search(users, 6, candidates=candidates).items
    assert (np.sort(lists, axis=1) == [-1, 3, 403, 803, 1203, 1603]).all()


@pytest.mark.parametrize(
    ("kind", "least"), [("flat", 1.0), ("hnsw", 0.95), ("ivf-flat", 0.9), ("ivf-pq", 0.5)]
)
def test_measured_recall(kind: str, least: float) -> None:
    users, items = clustered()
    measured = measure(build_index(items, config(kind)), users, 10, sample=200)
    assert least <= measured["recall@10"] <= 1
    assert measured["users"] == 200 and measured["queries_per_second"] > 0


def test_recall_counts_what_is_missing() -> None:
    users, items = clustered()
    index = build_index(items, config("ivf-flat", n_lists=20, n_probe=1))
    found, exact = index.search(users, 10).items, rank_exact(users, items, 10).items
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])
    assert measure(index, users, 10)["recall@10"] == pytest.approx(by_hand)
    assert by_hand < 1


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bytes_and_a_read_index_finds_the_same(kind: str, tmp_path: Path) -> None:
    users, items = clustered()
    index = build_index(items, config(kind, n_probe=3))
    assert index.to_bytes() == build_index(items, config(kind, n_probe=3)).to_bytes()
    (tmp_path / "items.faiss").write_bytes(index.to_bytes())
    again = read_index(tmp_path / "items.faiss", items, index.facts)
    assert (again.search(users, 10).items == index.search(users, 10).items).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_items", [1, 2, 50])
def test_tiny_catalogues_work_and_k_may_exceed_them(kind: str, n_items: int) -> None:
    users, items = clustered()
    index = build_index(items[:n_items], config(kind))
    lists = index.search(users[:9], 60).items
    assert (np.sort(lists, axis=1)[:, -n_items:] == np.arange(n_items)).all()
    assert (lists >= 0).sum() == 9 * n_items
    assert kind != "flat" or index.reranked == 0  # all items were fetched: nothing is in doubt


def test_settings_are_lowered_to_what_the_catalogue_allows() -> None:
    items = clustered()[1]
    assert build_index(items[:100], config("ivf-flat")).facts["parameters"] == {"n_lists": 2, "n_probe": 2}
    few = build_index(items[:5], config("ivf-flat", n_lists=64, n_probe=32))
    assert few.facts["parameters"] == {"n_lists": 5, "n_probe": 5}
    assert few.facts["metric"] == "inner product"


@pytest.mark.parametrize(("dim", "pq_bytes"), [(16, 5), (129, 16), (1, 16)])
def test_pq_bytes_need_not_divide_the_dimension(dim: int, pq_bytes: int, tmp_path: Path) -> None:
    users, items = (np.tile(vectors, 9)[:, :dim] for vectors in clustered())
    index = build_index(items, config("ivf-pq", pq_bytes=pq_bytes))
    assert (index.facts["dim"], index.facts["parameters"]["pq_bytes"]) == (dim, pq_bytes)
    assert measure(index, users, 10, sample=200)["recall@10"] > 0.5
    (tmp_path / "items.faiss").write_bytes(index.to_bytes())
    again = read_index(tmp_path / "items.faiss", items, index.facts)
    assert (again.search(users, 10).items == index.search(users, 10).items).all()


def test_diverged_or_missing_vectors_are_refused() -> None:
    users, items = clustered()
    with pytest.raises(InputError, match="nothing to index"):
        build_index(items[:0], config("flat"))
    with pytest.raises(DivergedError):
        build_index(np.where(items > 2, np.nan, items), config("flat"))
    with pytest.raises(DivergedError):
        build_index(items, config("flat")).search(np.where(users > 2, np.nan, users), 3)


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    for kind in ("flat", "hnsw"):
        with pytest.raises(InputError, match=f"device '{device}'"):
            build_index(clustered()[1], config(kind, device=device))


def test_the_index_goes_to_the_gpu_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: None, raising=False)
    monkeypatch.setattr(
        faiss, "index_cpu_to_gpu", lambda _, ordinal, index: asked.append(ordinal) or index, raising=False
    )
    for device in ("cuda:1", "cuda"):
        build_index(clustered()[1], config("flat", device=device))
    assert asked == [1, 0]


def test_files_that_are_no_index_of_these_items_are_refused(tmp_path: Path) -> None:
    items = clustered()[1]
    index = build_index(items, config("flat"))
    path = tmp_path / "items.faiss"
    with pytest.raises(FileNotFoundError):
        read_index(path, items, index.facts)
    for content in (b"", b"no index", index.to_bytes()[:-1000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{re.escape(str(path))} is not a readable"):
            read_index(path, items, index.facts)
    path.write_bytes(index.to_bytes())
    with pytest.raises(InputError, match="2000 vectors of 16 dimensions"):
        read_index(path, items[:-1], index.facts)


def test_faiss_and_torch_share_a_process_and_its_threads() -> None:
    users, items = clustered()
    threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    for _ in range(5):
        build_index(items, config("hnsw")).search(users, 10)
        torch.randn(400, 400) @ torch.randn(400, 400)
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == threads
