import numpy as np
import pytest
from scipy import sparse

from mmrec.recsys import ranking, topk
from mmrec.recsys.errors import DivergedError, InputError
from mmrec.recsys.ranking import rank_exact


def by_sorting(users, items, k, exclude=None, candidates=None) -> np.ndarray:
    """Lists by one stable sort of all scores: what the blocked, vectorised ranking must equal."""
    scores = users @ items.T
    if exclude is not None:
        scores[exclude.toarray() != 0] = -np.inf
    if candidates is not None:
        scores[:, ~candidates] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    lists = np.where(np.isfinite(np.take_along_axis(scores, order, axis=1)), order, -1)
    return np.pad(lists, ((0, 0), (0, k - lists.shape[1])), constant_values=-1)


def integers(generator, rows: int, dim: int, span: int = 2) -> np.ndarray:
    return generator.integers(-span, span + 1, (rows, dim)).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_equals_a_stable_sort_with_many_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n, n_items, k = generator.integers(1, 40), generator.integers(1, 900), int(generator.integers(1, 40))
    users, items = integers(generator, n, 3), integers(generator, n_items, 3)
    exclude = sparse.random(n, n_items, 0.5, format="csr", random_state=generator)
    candidates = generator.random(n_items) < 0.6
    for options in ({}, {"exclude": exclude}, {"exclude": exclude, "candidates": candidates}):
        expected = by_sorting(users, items, k, **options)
        assert (rank_exact(users, items, k, **options).items == expected).all()
        assert (rank_exact(sparse.csr_matrix(users), items, k, **options).items == expected).all()


def test_equal_scores_are_in_item_order_also_at_the_cut() -> None:
    items = np.array([[1], [2], [2], [1], [2], [1]], dtype=np.float32)
    ranked = rank_exact(np.ones((1, 1), np.float32), items, 4)
    assert ranked.items.tolist() == [[1, 2, 4, 0]]
    assert ranked.scores.tolist() == [[2, 2, 2, 1]]


def test_wide_and_narrow_matrices_rank_alike() -> None:
    generator = np.random.default_rng(0)
    users, items = generator.normal(size=(200, 8)).astype("f4"), generator.normal(size=(3000, 8)).astype("f4")
    assert 3000 // topk.GROUP >= 4 * 11  # the search for the ten best goes by groups
    assert (rank_exact(users, items, 10).items == rank_exact(users, items, 200).items[:, :10]).all()


def test_lists_are_padded_where_candidates_run_out() -> None:
    users, items = np.ones((2, 1), np.float32), np.array([[1], [3], [2]], np.float32)
    exclude = sparse.csr_matrix(np.array([[0, 1, 0], [1, 1, 1]]))
    ranked = rank_exact(users, items, 5, exclude)
    assert ranked.items.tolist() == [[2, 0, -1, -1, -1], [-1] * 5]
    assert np.isneginf(ranked.scores[ranked.items < 0]).all()
    assert rank_exact(users, items, 2, candidates=np.zeros(3, bool)).items.tolist() == [[-1, -1]] * 2
    assert rank_exact(users[:0], items, 2).items.shape == (0, 2)


def test_block_sizes_change_nothing(monkeypatch) -> None:
    generator = np.random.default_rng(1)
    users, items = integers(generator, 50, 4), integers(generator, 300, 4)
    exclude = sparse.random(50, 300, 0.3, format="csr", random_state=generator)
    expected = by_sorting(users, items, 20, exclude)
    for rows in (1, 7, 4096):
        monkeypatch.setattr(ranking, "block_rows", lambda *_, rows=rows: rows)
        assert (rank_exact(users, items, 20, exclude).items == expected).all()


def test_blocks_stay_within_the_memory_budget() -> None:
    cuda, cpu = ranking.torch.device("cuda"), ranking.torch.device("cpu")
    assert ranking.block_rows(10**6, 64, 512, cuda) * 4 * 10**6 <= 512 * 2**20 / 4
    assert ranking.block_rows(10**6, 64, 512, cpu) <= ranking.block_rows(10**6, 64, 512, cuda)
    assert ranking.block_rows(10**9, 64, 1, cpu) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_diverged_vectors_are_refused(value: float) -> None:
    good, bad = np.ones((2, 2), np.float32), np.array([[1, 2], [value, 3]], dtype=np.float32)
    for users, items in ((bad, good), (good, bad), (sparse.csr_matrix(bad), good)):
        with pytest.raises(DivergedError, match="diverged"):
            rank_exact(users, items, 1)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there_is_an_input_error(device: str) -> None:
    with pytest.raises(InputError, match=f"device '{device}'"):
        rank_exact(np.ones((1, 1), np.float32), np.ones((2, 1), np.float32), 1, device=device)


def test_shapes_that_do_not_fit_are_named() -> None:
    users, items = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
    with pytest.raises(InputError, match="3 dimensions, item vectors 2"):
        rank_exact(users, items[:, :2], 1)
    with pytest.raises(InputError, match="expected"):
        rank_exact(users, items, 1, sparse.csr_matrix((2, 5)))
    with pytest.raises(InputError, match="mask of 4 items"):
        rank_exact(users, items, 1, candidates=np.array([0, 1]))
    with pytest.raises(InputError, match="k = 0"):
        rank_exact(users, items, 0)
