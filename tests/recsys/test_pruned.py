import numpy as np
import pytest
import torch
from scipy import sparse

from mmrec.recsys import ranking
from mmrec.recsys.pruned import TILE, PrunedCatalogue, serves
from mmrec.recsys.ranking import ExactRanker, rank_exact
from mmrec.recsys.topk import GROUP

DTYPES = (torch.bfloat16, torch.float32)


def brute_force(users: np.ndarray, items: np.ndarray, k: int, exclude=None) -> np.ndarray:
    scores = users.astype(np.float64) @ items.astype(np.float64).T
    if exclude is not None:
        scores[exclude.nonzero()] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_items", [2 * TILE, 2 * TILE + 1, 3 * TILE - 17])
def test_lists_are_exact_though_products_are_not(dtype, n_items: int, monkeypatch) -> None:
    monkeypatch.setattr(ranking, "best_dtype", lambda: dtype)
    generator = np.random.default_rng(n_items)
    users = generator.normal(size=(150, 24)).astype("f4") * generator.gamma(1, size=(150, 1)).astype("f4")
    items = generator.normal(size=(n_items, 24)).astype("f4") * np.geomspace(0.5, 2, n_items)[:, None]
    best = brute_force(users, items, 40)
    seen = sparse.lil_matrix((150, n_items))
    for user, row in enumerate(best):
        seen[user, row[: user % 30]] = 1  # the best ones, of some users more than there are places
    seen[3, :] = 1
    exclude, candidates = seen.tocsr(), np.arange(n_items) % 5 != 2
    ranker = ExactRanker(items, memory_mb=1)
    assert (ranker.rank(users, 10).items == best[:, :10]).all()
    expected = brute_force(users, items, 10, exclude)
    expected[3] = -1
    assert (ranker.rank(users, 10, exclude).items == expected).all()
    assert ranker._prunes
    seen[:, ~candidates] = 1
    expected = brute_force(users, items, 10, seen.tocsr())
    expected[3] = -1
    assert (rank_exact(users, items, 10, exclude, candidates).items == expected).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_it_finds_it_finds_completely_whatever_ties_or_nearly_ties(dtype) -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=(40, 8)).astype("f4")
    items = np.repeat(base, 60, axis=0)[generator.permutation(2400)]
    items[::2] *= 1 + 1e-6 * generator.normal(size=(1200, 1)).astype("f4")
    users = generator.normal(size=(64, 8)).astype("f4")
    users[5], users[6] = 0, -np.abs(items).max()  # nobody's favourite, and one whose scores may be negative
    lists, scores, found = PrunedCatalogue(torch.from_numpy(items), dtype).search(
        torch.from_numpy(users), 3, None
    )
    exact = users.astype("f8") @ items.astype("f8").T
    worst = np.sort(exact, axis=1)[:, -3]
    for user in np.flatnonzero(found):
        assert exact[user, lists[user]] == pytest.approx(scores[user], rel=1e-5)
        assert (exact[user, lists[user]] >= worst[user] * (1 - 1e-5)).all()
        assert (np.diff(scores[user]) <= 0).all()
    assert not found[5] and (lists[~found] == -1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 64, 1000])
def test_no_product_is_further_off_than_its_bound(dtype, dim: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    users, items = (torch.randn(n, dim, generator=generator) for n in (64, TILE))
    for left, right in ((users, items), (users.abs(), items.abs())):
        catalogue = PrunedCatalogue(right, dtype)
        (tile,) = catalogue._tiles
        rounded = (left.to(dtype) @ tile).view(64, GROUP, -1).transpose(1, 2).flatten(1).double()
        top = rounded.amax(dim=1)
        error = catalogue._error(left, top.float()).double()
        off = (rounded - left.double() @ right.double().T).abs()
        off[rounded.abs() > top.unsqueeze(1)] = 0  # far below zero: in nobody's list
        assert (off <= error.unsqueeze(1)).all()
        assert (error <= 0.05 * left.double().norm(dim=1) * right.double().norm(dim=1).max()).all()


def test_integers_and_their_many_ties_are_ranked_as_by_a_stable_sort() -> None:
    generator = np.random.default_rng(1)
    users = generator.integers(-2, 3, (80, 5)).astype("f4")
    items = generator.integers(-2, 3, (4000, 5)).astype("f4")
    for k in (1, 7):
        assert (rank_exact(users, items, k).items == brute_force(users, items, k)).all()


def test_negative_scores_only_and_extreme_lengths() -> None:
    generator = np.random.default_rng(2)
    users = generator.normal(size=(40, 6)).astype("f4")
    items = generator.normal(size=(4000, 6)).astype("f4")
    negative = np.concatenate([items, np.full((4000, 1), -100, "f4")], axis=1)
    ones = np.concatenate([users, np.ones((40, 1), "f4")], axis=1)
    assert (rank_exact(ones, negative, 5).scores < 0).all()
    for length in (1e-18, 1e-3, 1e13):
        found = rank_exact(users * np.float32(length), items * np.float32(length), 5).items
        assert (found == brute_force(users, items, 5)).all()


def test_rows_stay_within_the_budget_and_small_catalogues_are_not_worth_it() -> None:
    catalogue = PrunedCatalogue(torch.ones(100_000, 4), torch.float32)
    for memory_mb in (1, 4, 64):
        assert catalogue.rows(memory_mb) * catalogue.groups * 4 <= memory_mb * 2**20 / 2
    assert catalogue.rows(0) == 1
    assert serves(100_000, 20) and not serves(3000, 20) and not serves(100_000, 2000)
