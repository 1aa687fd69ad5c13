import numpy as np
import pytest
import torch

from mmrec.recsys.errors import InputError
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import TrainingData, Vectors
from mmrec.recsys.models.itemknn import largest_per_row

# users 0, 1 and 2 have the items {0, 1}, {0, 1, 2} and {2}; user 3 and item 3 have nothing
PAIRS = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 2]]).T
HISTORY = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=float)


def fitted(name: str, **options: object) -> Vectors:
    data = TrainingData(4, 4, PAIRS[0].contiguous(), PAIRS[1].contiguous())
    model = model_class(name)(data, 64, validate_options(name, options))
    model.fit()  # type: ignore[union-attr]
    return model.vectors()


def test_popularity_counts_and_serves_unseen_users() -> None:
    vectors = fitted("popularity")
    assert (vectors.users @ vectors.items.T).tolist() == [[2, 2, 2, 0]] * 4


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_ease_solves_its_least_squares_problem(precision: str) -> None:
    vectors = fitted("ease", reg_weight=0.5, precision=precision)
    weights = np.zeros((4, 4))  # column j: ridge regression of item j on all other items
    for j in range(4):
        others = [i for i in range(4) if i != j]
        design = HISTORY[:, others]
        solution = np.linalg.solve(design.T @ design + 0.5 * np.eye(3), design.T @ HISTORY[:, j])
        weights[others, j] = solution
    assert np.allclose(vectors.users @ vectors.items.T, HISTORY @ weights, atol=1e-6)


def test_itemknn_is_shrunk_cosine() -> None:
    # c_01 = 2, c_02 = c_12 = 1, c_jj = 2 for items 0, 1, 2
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = 2 / (2 + 1)
    for i, j in ((0, 2), (1, 2), (2, 0), (2, 1)):
        expected[i, j] = 1 / (2 + 1)
    vectors = fitted("itemknn", shrink=1.0, weighting="none")
    assert np.allclose(vectors.items, expected.T)
    assert np.allclose(vectors.users @ vectors.items.T, HISTORY @ expected)


def test_itemknn_keeps_the_k_nearest_of_each_item() -> None:
    items = fitted("itemknn", k=1, shrink=0.0, weighting="none").items
    assert [row.nonzero()[0].tolist() for row in items] == [[1], [0], [0], []]  # 2 is as near to 0 as to 1


def test_asymmetric_cosine_weighs_the_popularity_of_both_sides() -> None:
    pairs = torch.tensor([[0, 0], [0, 1], [1, 0], [2, 0], [3, 0]]).T  # c_00 = 4, c_11 = 1, c_01 = 1
    data = TrainingData(4, 2, pairs[0].contiguous(), pairs[1].contiguous())
    model = model_class("itemknn")(
        data, 1, validate_options("itemknn", {"alpha": 0.25, "shrink": 0.0, "weighting": "none"})
    )
    model.fit()  # type: ignore[union-attr]
    items = model.vectors().items
    assert items[1, 0] == pytest.approx(4**-0.25)  # from item 0 to item 1: c_00^alpha c_11^(1 - alpha)
    assert items[0, 1] == pytest.approx(4**-0.75)


def test_weighting_makes_heavy_users_count_less() -> None:
    plain, weighted = (
        fitted("itemknn", weighting=weighting, shrink=0.0).items for weighting in ("none", "tf-idf")
    )
    # user 1 has three of four items, users 0 and 2 two and one: what 0 and 2 share is user 1 alone
    assert weighted[0, 2] < plain[0, 2]
    assert weighted[0, 1] == pytest.approx(1)
    assert np.isfinite(fitted("itemknn", weighting="bm25").items).all()


def test_largest_per_row_breaks_ties_by_column() -> None:
    rows, columns = np.array([1, 0, 0, 0, 1]), np.array([0, 5, 3, 4, 2])
    values = np.array([1.0, 2.0, 2.0, 7.0, 3.0])
    kept = largest_per_row(rows, columns, values, 2)
    assert sorted(zip(rows[kept], columns[kept], strict=True)) == [(0, 3), (0, 4), (1, 0), (1, 2)]


@pytest.mark.parametrize("name", ["ease", "itemknn"])
def test_a_catalogue_beyond_the_memory_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"4 items need .* GB, more than max_memory_gb = 1e-08"):
        fitted(name, max_memory_gb=1e-8)
