import pytest
import torch
import torch.nn.functional as F

from mmrec.recsys.models.contrastive import in_batch_loss
from mmrec.recsys.models.distinct import distinct

USERS, ITEMS = torch.tensor([4, 1, 4, 2]), torch.tensor([7, 7, 3, 5])
LEFT, RIGHT = distinct(USERS), distinct(ITEMS)


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("bounded", [False, True])
def test_it_is_the_cross_entropy_of_the_batch_with_its_repetitions(scale: float, bounded: bool) -> None:
    torch.manual_seed(0)
    anchors, targets = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    rows, columns = F.normalize(anchors, dim=1) * scale, F.normalize(targets, dim=1)
    hard = torch.tensor([0.5, -torch.inf, 0.1, -0.2])
    ours = in_batch_loss(rows, columns, LEFT, RIGHT, scale if bounded else None, hard)
    logits = rows[LEFT.slots] @ columns[RIGHT.slots].T
    expected = F.cross_entropy(torch.cat([logits, hard.unsqueeze(1)], dim=1), torch.arange(4))
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    for got, theirs in zip(
        torch.autograd.grad(ours, (anchors, targets), retain_graph=True),
        torch.autograd.grad(expected, (anchors, targets)),
        strict=True,
    ):
        assert torch.allclose(got, theirs, rtol=1e-4, atol=1e-5)


def test_invalid_targets_are_left_out_on_both_sides() -> None:
    anchors, targets = torch.eye(3, requires_grad=True), torch.eye(3)
    valid = torch.tensor([True, False, True])  # items 3, 5, 7: the last pair goes
    ours = in_batch_loss(anchors, targets, LEFT, RIGHT, valid=valid)
    keep = [0, 1, 2]
    logits = (anchors[LEFT.slots] @ targets[RIGHT.slots].T)[keep][:, keep]
    assert ours.item() == pytest.approx(F.cross_entropy(logits, torch.arange(3)).item())
    nothing = in_batch_loss(anchors, targets, LEFT, RIGHT, valid=torch.zeros(3, dtype=torch.bool))
    assert nothing == 0
    assert not torch.autograd.grad(nothing, anchors)[0].any()


def test_an_invalid_target_far_above_the_others_leaves_loss_and_gradients_finite() -> None:
    anchors = torch.tensor([[300.0, 1.0], [300.0, 2.0], [300.0, 3.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0]], requires_grad=True)
    nodes, valid = distinct(torch.arange(3)), torch.tensor([True, True, False])
    loss = in_batch_loss(anchors, targets, nodes, nodes, valid=valid)
    expected = F.cross_entropy(anchors[:2] @ targets[:2].T, torch.arange(2))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for got, theirs in zip(
        torch.autograd.grad(loss, (anchors, targets)),
        torch.autograd.grad(expected, (anchors, targets)),
        strict=True,
    ):
        assert torch.allclose(got, theirs, rtol=1e-5)
