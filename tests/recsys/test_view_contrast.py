import math

import pytest
import torch

from mmrec.recsys.view_contrast import recall_at_1, view_contrast

EYE = torch.eye(3)


def test_contrast_is_the_cross_entropy_of_the_own_item() -> None:
    apart = torch.eye(3, dtype=torch.bool)
    expected = math.log(math.exp(2) + 2) - 2  # cosines 1 and 0, temperature 1/2
    assert view_contrast(3 * EYE, EYE, apart, 0.5).item() == pytest.approx(expected)
    twins = apart.clone()
    twins[0, 1] = twins[1, 0] = True
    of_twins, of_other = math.log(math.exp(2) + 1) - 2, expected
    assert view_contrast(EYE, EYE, twins, 0.5).item() == pytest.approx((2 * of_twins + of_other) / 3)
    alone = view_contrast(EYE[:1].clone().requires_grad_(), EYE[:1], apart[:1, :1], 0.5)
    alone.backward()  # a last batch may hold a single item
    assert alone.item() == 0


def test_recall_counts_items_that_are_the_same() -> None:
    apart = torch.eye(3, dtype=torch.bool)
    swapped = EYE[[1, 0, 2]]
    assert recall_at_1(EYE, swapped, apart) == pytest.approx(1 / 3)
    apart[0, 1] = apart[1, 0] = True
    assert recall_at_1(EYE, swapped, apart) == 1
