import numpy as np
import pytest

from mmrec.recsys.content_items import vectors_by_content
from mmrec.recsys.feature_search import ItemView


def test_a_new_item_takes_the_vectors_of_those_it_is_like() -> None:
    image = np.array(
        [[1, 0], [1, 0.1], [-1, 0], [-1, 0.1], [1, 0.05], [0, 0]]
    )  # two tastes; the last two are new
    text = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0], [0, 0]])
    views = [
        ItemView.of(image, np.array([True] * 5 + [False])),
        ItemView.of(text, np.array([True] * 4 + [False] * 2)),
    ]
    vectors = np.array([[2.0, 0], [4.0, 0], [0, 6.0], [0, 8.0]], dtype="f4")
    mixed, described = vectors_by_content(views, np.arange(4), np.array([4, 5]), vectors, k=2)
    assert described.tolist() == [True, False]
    assert mixed[0] == pytest.approx([3, 0], abs=0.1) and (mixed[1] == 0).all()


def test_an_item_unlike_all_takes_the_mean_of_the_nearest() -> None:
    views = [ItemView.of(np.array([[1.0], [1.0], [-5.0]]), np.ones(3, bool))]
    mixed, described = vectors_by_content(views, np.arange(2), np.array([2]), np.array([[1.0], [3.0]], "f4"))
    assert described.all() and mixed.tolist() == [[2.0]]
