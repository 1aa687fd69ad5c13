import math

import pytest
import torch
import torch.nn.functional as F

from mmrec.recsys import info_nce as module
from mmrec.recsys.info_nce import info_nce


def test_two_orthogonal_pairs() -> None:
    axes = torch.eye(2)  # own cosine 1, other 0
    loss = info_nce(2 * axes, 3 * axes, temperature=0.5, weights=torch.ones(2))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)))


@pytest.mark.parametrize("block", [64, 2**21])
def test_repeated_rows_count_as_often_as_they_occur_and_those_left_out_not_at_all(monkeypatch, block) -> None:
    monkeypatch.setattr(module, "CPU_BLOCK_BYTES", block)
    torch.manual_seed(0)
    pairs = [torch.randn(4, 5, requires_grad=True) for _ in range(2)]
    repeats = torch.tensor([0, 1, 1, 1, 2, 2])
    units = [F.normalize(rows[repeats], dim=1) for rows in pairs]
    expected = F.cross_entropy(units[0] @ units[1].T / 0.2, torch.arange(6))
    loss = info_nce(*pairs, 0.2, torch.tensor([1.0, 3.0, 2.0, 0.0]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(3 * loss, pairs), torch.autograd.grad(3 * expected, pairs), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-6)
    nothing = info_nce(*pairs, 0.2, torch.zeros(4))
    assert nothing == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(nothing, pairs))
