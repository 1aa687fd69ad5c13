import math

import pytest
import torch

from mmrec.recsys.losses import bpr_loss, l2_loss, margin_loss, margins, norm_loss

USERS, POSITIVES, NEGATIVES = torch.eye(2), torch.diag(torch.tensor([2.0, 4.0])), torch.zeros(2, 2)


def test_bpr_loss_is_the_mean_of_log1p_exp_minus_margin() -> None:
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-4))) / 2
    assert bpr_loss(USERS, POSITIVES, NEGATIVES).item() == pytest.approx(expected)


def test_bpr_loss_counts_valid_triples_alone() -> None:
    margin = margins(USERS, POSITIVES, NEGATIVES)
    first = margin_loss(margin, valid=torch.tensor([True, False]))
    assert first.item() == pytest.approx(math.log1p(math.exp(-2)))
    assert margin_loss(margin, valid=torch.tensor([False, False])).item() == 0


def test_epsilon_bounds_the_released_loss() -> None:
    users, positives = torch.ones(1, 1), torch.full((1, 1), -1000.0)
    assert bpr_loss(users, positives, -positives, epsilon=1e-10).item() == pytest.approx(-math.log(1e-10))
    assert bpr_loss(users, positives, -positives).item() == pytest.approx(2000)


def test_penalties_of_a_3_4_5_triangle() -> None:
    rows = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert l2_loss(rows, rows).item() == pytest.approx((25 + 25) / 2 / 2)
    assert norm_loss(rows, rows).item() == pytest.approx((5 + 5) / 2)
