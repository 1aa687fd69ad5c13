import numpy as np
import pytest

from mmrec.recsys.feature_geometry import (
    agreement,
    chance_agreement,
    effective_rank,
    hubness,
    mean_cosine,
    occurrences,
)
from mmrec.recsys.feature_search import ItemView


def view(rows: list[list[float]], absent: tuple[int, ...] = ()) -> ItemView:
    present = np.ones(len(rows), dtype=bool)
    present[list(absent)] = False
    return ItemView.of(np.array(rows), present)


def test_effective_rank_counts_the_directions_in_use() -> None:
    axes = [[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]
    assert effective_rank(view(axes)) == pytest.approx(2)
    assert effective_rank(view(axes[:2])) == pytest.approx(1)
    assert effective_rank(view([*axes, [0, 0, 5], [0, 0, -5]], absent=(4, 5))) == pytest.approx(2)
    # covariance eigenvalues 4 : 2, shares 2/3 and 1/3
    shares = np.array([2 / 3, 1 / 3])
    uneven = [*axes[:2], *axes]
    assert effective_rank(view(uneven)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert np.isnan(effective_rank(view([[1.0, 0], [2, 0]])))


def test_mean_cosine_is_over_pairs_of_different_items() -> None:
    # cosines of the three pairs: 0, 1, 0
    assert mean_cosine(view([[1.0, 0], [0, 2], [3, 0]])) == pytest.approx(1 / 3)
    assert mean_cosine(view([[1.0, 0], [0, 2], [3, 0]], absent=(1,))) == pytest.approx(1)
    assert np.isnan(mean_cosine(view([[1.0, 0]])))


def test_hubness_is_the_skewness_of_how_often_items_are_neighbours() -> None:
    star = np.array([[1], [0], [0], [0], [-1]])  # item 0 in three lists, item 1 in one; item 4 has none
    assert occurrences(star).tolist() == [3, 1, 0, 0, 0]
    counts = np.array([3.0, 1, 0, 0])
    expected = (((counts - 1) / counts.std()) ** 3).mean()
    assert hubness(star) == pytest.approx(expected)
    assert hubness(np.array([[1], [0], [3], [2]])) == 0


def test_agreement_is_the_share_of_common_neighbours() -> None:
    first = np.array([[1, 2], [0, 2], [0, 1], [-1, -1]])
    second = np.array([[2, 3], [2, 0], [3, -1], [0, 1]])
    assert agreement(first, second) == (pytest.approx((0.5 + 1 + 0) / 3), 3)
    assert agreement(first, np.full((4, 2), -1))[1] == 0


@pytest.mark.parametrize("k", [1, 2, 4])
def test_chance_knows_that_views_are_of_different_items(k: int) -> None:
    rng = np.random.default_rng(0)

    def lists_at_random(items: np.ndarray) -> np.ndarray:
        found = np.full((8, k), -1)
        for item in items:
            others = rng.permutation(items[items != item])[:k]
            found[item, : len(others)] = others
        return found

    first, second = np.arange(7), np.array([1, 3, 5, 7])  # three items have both
    pairs = [(lists_at_random(first), lists_at_random(second)) for _ in range(1000)]
    mean = np.mean([agreement(*pair)[0] for pair in pairs])
    assert chance_agreement(*pairs[0]) == pytest.approx(mean, abs=0.02)


def test_chance_is_k_of_the_others_where_all_items_have_both() -> None:
    lists = np.array([[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]])
    assert chance_agreement(lists, lists) == pytest.approx(2 / 4)
    assert np.isnan(chance_agreement(lists, np.full((5, 2), -1)))
