"""Rankings by features alone, on cosines that are easy to see."""

import numpy as np
import pytest
from scipy import sparse

from mmrec.recsys.feature_search import ItemView, item_cf, latest, nearest_by_views, zero_shot, zero_shot_max
from mmrec.recsys.pairs import Pairs

ANGLES = np.deg2rad([0, 10, 40, 90, 100])  # items on a circle: the cosine falls with the angle between two


def circle(*absent: int) -> ItemView:
    present = np.ones(5, dtype=bool)
    present[list(absent)] = False
    rows = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * np.arange(1, 6)[:, None]
    return ItemView.of(rows, present)


def history(*items: tuple[int, ...]) -> sparse.csr_matrix:
    rows = np.zeros((len(items), 5), dtype=np.float32)
    for user, own in enumerate(items):
        rows[user, list(own)] = 1
    return sparse.csr_matrix(rows)


def lists(
    search, own: sparse.csr_matrix, k: int = 3, candidates: np.ndarray | None = None
) -> list[list[int]]:
    return search(np.arange(own.shape[0]), k, own, candidates).items.tolist()


def test_zero_shot_ranks_by_the_mean_of_the_history() -> None:
    own = history((0,), (3,), (1, 3))  # the mean of items 1 and 3 points to 50 degrees
    assert lists(zero_shot([circle()], own), own) == [[1, 2, 3], [4, 2, 1], [2, 0, 4]]


def test_the_maximum_looks_at_the_nearest_item_of_the_history() -> None:
    own = history((0, 3), (4,), (1, 2, 3))
    search = zero_shot_max([circle()], own, memory_mb=1)
    assert lists(search, own) == [[1, 4, 2], [3, 2, 1], [0, 4, -1]]


@pytest.mark.parametrize("protocol", [zero_shot, zero_shot_max])
def test_absent_items_are_in_no_list_and_a_user_without_features_gets_none(protocol) -> None:
    own = history((0,), (1,))
    search = protocol([circle(1)], own)
    assert lists(search, own) == [[2, 3, 4], [-1, -1, -1]]
    only = np.array([False, True, False, True, False])
    assert lists(search, own, candidates=only) == [[3, -1, -1], [-1, -1, -1]]


@pytest.mark.parametrize("protocol", [zero_shot, zero_shot_max])
def test_an_item_without_one_of_two_views_is_as_near_as_items_are_on_average(protocol) -> None:
    own = history((0,))
    # the second view has item 1 opposite and item 3 next to item 0; without it, item 1 is nearest
    rows = np.array([[1.0, 0], [-1, 0], [0, 1], [1, 0.1], [0, -1]])
    everywhere, without = (
        ItemView.of(rows, np.array([True, known, True, True, True])) for known in (True, False)
    )
    assert lists(protocol([circle(), everywhere], own), own)[0] == [3, 2, 1]
    assert lists(protocol([circle(), without], own), own)[0] == [1, 3, 2]
    zeroed = ItemView.of(np.where(without.present[:, None], rows, 0), np.ones(5, dtype=bool))
    assert lists(protocol([circle(), zeroed], own), own)[0] == [3, 1, 2]  # a zero is data, and far off


def test_item_cf_adds_the_cosines_of_neighbours_and_lists_nothing_else() -> None:
    found = np.array([[1, 2], [0, 2], [1, 0], [4, -1], [3, -1]])
    cosines = np.array([[0.9, 0.5], [0.9, 0.6], [0.7, 0.5], [0.8, 0], [0.8, 0]], dtype=np.float32)
    own = history((0,), (0, 1), (3,), (0, 3))
    ranked = item_cf((found, cosines), own)(np.arange(4), 3, own, None)
    assert ranked.items.tolist() == [[1, 2, -1], [2, -1, -1], [4, -1, -1], [1, 4, 2]]
    assert ranked.scores[1, 0] == pytest.approx(1.1)  # 0.5 from item 0, 0.6 from item 1
    only = np.array([False, False, True, False, True])
    assert lists(item_cf((found, cosines), own), own, candidates=only)[3] == [4, 2, -1]


def test_item_cf_with_all_neighbours_ranks_as_zero_shot_does() -> None:
    own, view = history((0, 2), (1, 3), (4,)), circle()
    cosines = view.rows @ view.rows.T
    others = np.array([[j for j in range(5) if j != i] for i in range(5)])
    near = np.take_along_axis(cosines, others, axis=1)
    full = item_cf((others, near), own)
    assert lists(full, own, 5) == lists(zero_shot([view], own), own, 5)


def test_the_latest_pairs_of_every_user() -> None:
    pairs = Pairs(np.array([0, 0, 0, 1, 2, 2]), np.array([1, 2, 4, 0, 0, 3]))
    late = latest(pairs, np.array([5, 9, 7, 1, 3, 3]), last=2)
    assert list(zip(late.user_idx.tolist(), late.item_idx.tolist(), strict=True)) == [
        (0, 2), (0, 4), (1, 0), (2, 0), (2, 3),
    ]  # fmt: skip
    assert latest(pairs, np.array([5, 9, 7, 1, 3, 3]), last=1).item_idx.tolist() == [2, 0, 3]


def test_neighbours_are_near_by_the_mean_cosine_of_the_views() -> None:
    rows = np.array([[1.0, 0], [-1, 0], [0, 1], [1, 0.1], [0, -1]])
    other = ItemView.of(rows, np.ones(5, dtype=bool))
    found, cosines = nearest_by_views([circle(), other], 2, memory_mb=1)
    joint = np.concatenate([circle().rows, other.rows], axis=1) / 2**0.5
    similar = joint @ joint.T
    np.fill_diagonal(similar, -np.inf)
    assert (found == np.argsort(-similar, axis=1)[:, :2]).all()
    assert np.allclose(cosines, np.sort(similar, axis=1)[:, :-3:-1], atol=1e-6)


def test_a_view_that_one_of_two_items_lacks_counts_as_its_mean_and_none_in_common_as_no_neighbour() -> None:
    second = ItemView.of(np.tile([1.0, 0], (5, 1)), np.array([False, True, True, False, True]))
    first = circle(1, 4)  # items 1 and 4 have the second view alone, 0 and 3 the first, 2 both
    found, cosines = nearest_by_views([first, second], 3)
    assert found.tolist() == [[2, 3, -1], [2, 4, -1], [0, 1, 4], [2, 0, -1], [1, 2, -1]]
    average = float(first.mean @ first.mean)  # 0.647, of the first view; 40 and 90 degrees have 0.643
    assert cosines[1, :2] == pytest.approx([(1 + average) / 2] * 2)
    assert cosines[2, 0] == pytest.approx((np.cos(np.deg2rad(40)) + 1) / 2)
