import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mmrec.recsys import metrics

A, B, C, D, E, X, Y, Z = range(8)
LISTS = np.array([[A, B, C, D, E], [C, A, X, B, Y]])  # the two users of the worked examples
POSITIVES = [{B, E, Z}, {C}]
KEYS = np.array(sorted(user * 8 + item for user, items in enumerate(POSITIVES) for item in items))
POPULARITY = np.array([5, 2, 1, 4, 1, 0, 0, 0])


def accuracy(hits: np.ndarray, n_positives: np.ndarray, ks: list[int]) -> dict[str, np.ndarray]:
    return metrics.per_user(np.asarray(hits, dtype=bool), np.asarray(n_positives), ks)


def random_hits(seed: int, users: int = 50, k: int = 12) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    hits = generator.random((users, k)) < generator.random((users, 1)) / 2
    return hits, np.maximum(hits.sum(axis=1), 1) + generator.integers(0, 20, users)


def test_accuracy_of_the_worked_example() -> None:
    hits = metrics.find_hits(LISTS, np.array([0, 1]), KEYS, 8)
    assert hits.astype(int).tolist() == [[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]]
    values = accuracy(hits, [3, 1], [5])
    expected = {
        "recall@5": [2 / 3, 1],
        "precision@5": [0.4, 0.2],
        "hit@5": [1, 1],
        "map@5": [0.3, 1],
        "mrr@5": [0.5, 1],
        "ndcg@5": [(1 / np.log2(3) + 1 / np.log2(6)) / (1 + 1 / np.log2(3) + 0.5), 1],
    }
    assert set(values) == set(expected)
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-12), name
    assert values["ndcg@5"][0] == pytest.approx(0.47762, abs=1e-5)


def test_padding_is_never_a_hit_and_the_key_of_the_user_before_is_not_mistaken() -> None:
    lists = np.array([[0, 1], [0, -1]])  # user 1's padding has the key 1 * 2 - 1: user 0's item 1
    keys = np.array([1])
    assert metrics.find_hits(lists, np.array([0, 1]), keys, 2).tolist() == [[False, True], [False, False]]
    assert not metrics.find_hits(lists, np.array([0, 1]), np.array([], dtype=np.int64), 2).any()


def test_keys_do_not_overflow_32_bits() -> None:
    user, n_items = np.array([200_000], dtype=np.int32), 60_000
    keys = np.array([200_000 * n_items + 7], dtype=np.int64)
    assert metrics.find_hits(np.array([[7]]), user, keys, n_items).tolist() == [[True]]


def test_agrees_with_the_evaluator_of_mmrec(shared) -> None:
    golden = load_file(shared / "parity" / "metrics" / "metrics.safetensors")
    test = golden["in/test_mask"].astype(bool)
    user_idx, item_idx = np.nonzero(test)
    hits = metrics.find_hits(
        golden["out/topk_index"].astype(np.int64), np.arange(64), user_idx * 80 + item_idx, 80
    )
    assert (hits == golden["out/hits"].astype(bool)).all()
    cuts = list(range(1, 21))
    values = accuracy(hits, test.sum(axis=1), cuts)
    for name in ("recall", "ndcg", "precision", "map"):
        ours = np.stack([values[f"{name}@{k}"] for k in cuts], axis=1)
        assert np.abs(ours - golden[f"out/per_user_{name}"]).max() < 1e-9, name
        assert np.abs(ours.mean(axis=0) - golden[f"out/{name}"]).max() < 1e-9, name


def test_agrees_with_ranx_on_random_runs(monkeypatch) -> None:
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)  # compiling takes half a minute, running nothing
    ranx = pytest.importorskip("ranx")
    generator = np.random.default_rng(3)
    users, n_items, cuts = 40, 60, [1, 5, 20]
    lists = np.stack([generator.permutation(n_items)[:20] for _ in range(users)])
    relevant = [generator.choice(n_items, generator.integers(1, 31), replace=False) for _ in range(users)]
    qrels = ranx.Qrels({f"{u:02}": {str(i): 1 for i in items} for u, items in enumerate(relevant)})
    run = ranx.Run({f"{u:02}": {str(i): 20.0 - r for r, i in enumerate(row)} for u, row in enumerate(lists)})
    keys = np.sort(np.concatenate([u * n_items + items for u, items in enumerate(relevant)]))
    hits = metrics.find_hits(lists, np.arange(users), keys, n_items)
    n_positives = np.array([len(items) for items in relevant])
    values = accuracy(hits, n_positives, cuts)
    for k in cuts:
        names = {
            "recall": "recall",
            "precision": "precision",
            "mrr": "mrr",
            "ndcg": "ndcg",
            "hit_rate": "hit",
        }
        theirs = ranx.evaluate(qrels, run, [f"{name}@{k}" for name in [*names, "map"]], return_mean=False)
        for name, ours in names.items():
            assert values[f"{ours}@{k}"] == pytest.approx(theirs[f"{name}@{k}"], abs=1e-9), (name, k)
        full_average = values[f"map@{k}"] * np.minimum(n_positives, k) / n_positives  # ranx divides by m
        assert full_average == pytest.approx(theirs[f"map@{k}"], abs=1e-9)


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_properties_of_accuracy(seed: int, k: int) -> None:
    hits, n_positives = random_hits(seed)
    values = accuracy(hits, n_positives, [k])
    order = np.random.default_rng(seed).permutation(len(hits))
    for name, value in values.items():
        assert ((value >= 0) & (value <= 1)).all(), name
        assert (accuracy(hits[order], n_positives[order], [k])[name] == value[order]).all(), name
    retrieved = hits.sum(axis=1)  # variant H of the ideal: the hits of the list, however few
    variant = accuracy(hits, np.where(retrieved > 0, retrieved, n_positives), [k])[f"ndcg@{k}"]
    assert (values[f"ndcg@{k}"] <= variant + 1e-12).all()


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10))
def test_ndcg_rises_when_a_hit_moves_above_a_miss(seed: int, rank: int) -> None:
    hits, n_positives = random_hits(seed)
    hits[:, rank], hits[:, rank + 1] = False, True
    better = hits.copy()
    better[:, [rank, rank + 1]] = hits[:, [rank + 1, rank]]
    for k in (rank + 1, 12):
        assert (
            accuracy(better, n_positives, [k])[f"ndcg@{k}"] > accuracy(hits, n_positives, [k])[f"ndcg@{k}"]
        ).all()


def test_a_perfect_ranker() -> None:
    n_positives = np.array([1, 3, 9])
    hits = np.arange(5) < n_positives[:, None]
    values = accuracy(hits, n_positives, [1, 5])
    for k in (1, 5):
        assert values[f"recall@{k}"] == pytest.approx(np.minimum(n_positives, k) / n_positives)
        for name in ("ndcg", "map", "mrr", "hit"):
            assert (values[f"{name}@{k}"] == 1).all(), name


def test_a_random_ranker_finds_k_over_the_candidates() -> None:
    generator = np.random.default_rng(0)
    lists = generator.random((20_000, 40)).argsort(axis=1)[:, :10]
    keys = np.arange(20_000) * 40 + generator.integers(0, 40, 20_000)
    hits = metrics.find_hits(lists, np.arange(20_000), keys, 40)
    assert accuracy(hits, np.ones(20_000, int), [10])["recall@10"].mean() == pytest.approx(0.25, abs=0.01)


def test_novelty_epc_and_popularity_of_the_worked_example() -> None:
    information = metrics.self_information(POPULARITY[:5], n_users=10, smoothing=0)
    assert metrics.list_means(information, LISTS[:1], [5])[0] == pytest.approx([2.2575], abs=1e-4)
    assert metrics.list_means(metrics.popularity_complement(POPULARITY), LISTS, [5])[0][0] == pytest.approx(
        0.48
    )
    assert metrics.list_means(POPULARITY, LISTS, [5, 2])[0][0] == pytest.approx(2.6)
    assert metrics.list_means(POPULARITY, LISTS, [5, 2])[1].tolist() == [3.5, 3.0]
    in_tail = np.isin(np.arange(8), [C, E])
    assert metrics.list_means(in_tail, LISTS, [5])[0][0] == pytest.approx(0.4)


def test_novelty_is_finite_without_interactions() -> None:
    assert metrics.self_information(np.array([0, 7]), n_users=7).tolist() == [3.0, 0.0]


def test_means_are_over_the_items_that_a_list_has() -> None:
    lists = np.array([[2, 0, -1], [-1, -1, -1]])
    first, second = metrics.list_means(np.array([1.0, 50.0, 5.0]), lists, [3])[0]
    assert first == 3.0 and np.isnan(second)


def test_popularity_bins_by_covered_interactions() -> None:
    # 20 interactions; more popular items cover 0, 0, 40, 60, 80 (twice) %
    popularity = np.array([2, 4, 4, 4, 4, 1, 1, 0])
    assert metrics.popularity_bins(popularity).tolist() == [2, 0, 0, 0, 0, 2, 2, 3]
    assert metrics.popularity_bins(np.array([10, 5, 3, 1, 1])).tolist() == [0, 1, 1, 2, 2]
    assert metrics.popularity_bins(np.array([2] + 8 * [1])).tolist() == [0] + 8 * [1]  # 20 % are before
    assert metrics.popularity_bins(np.array([3, 3, 3])).tolist() == [0, 0, 0]
    assert metrics.popularity_bins(np.zeros(2, dtype=np.int64)).tolist() == [3, 3]


def test_coverage_of_the_worked_example_and_of_padding() -> None:
    assert metrics.coverage(metrics.exposure(LISTS, 8)) == pytest.approx(7 / 8)
    assert metrics.coverage(metrics.exposure(np.array([[-1, -1]]), 8)) == 0


def test_gini_and_entropy() -> None:
    assert metrics.gini(np.array([1, 0, 2, 0, 1])) == pytest.approx(0.5)
    assert metrics.gini(np.full(9, 4)) == 0
    assert metrics.gini(np.array([0, 0, 0, 7])) == pytest.approx(3 / 4)
    assert metrics.normalised_entropy(np.full(9, 4)) == pytest.approx(1)
    assert metrics.normalised_entropy(np.array([0, 5, 0])) == 0
    assert metrics.normalised_entropy(np.array([1, 1, 0, 0])) == pytest.approx(0.5)
    assert np.isnan(metrics.gini(np.zeros(3, dtype=np.int64)))


def test_inter_user_diversity_is_one_minus_the_mean_overlap() -> None:
    lists = np.array([[0, 1], [1, 2], [3, 4]])  # overlaps 1, 0, 0 of 2
    assert metrics.inter_user_diversity(metrics.exposure(lists, 5), 3, 2) == pytest.approx(1 - (1 / 2) / 3)


def test_intra_list_diversity() -> None:
    features = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    lists = np.array([[0, 1, 2], [0, 1, 3], [0, -1, -1]])
    two, three = metrics.intra_list_diversity(lists, features, [2, 3])
    assert three[:2] == pytest.approx([2 / 3, 2 / 3])  # distances 0, 1, 1; the item without features is at 1
    assert two[:2] == pytest.approx([0, 0])
    assert np.isnan([two[2], three[2]]).all()
