"""Cross-entropy among the pairs of a batch (InfoNCE), with one (b, b) matrix in memory and no copy of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _InBatch(torch.autograd.Function):
    """Keeps the exponentials; autograd's chain of matmul, log-softmax and mean keeps and makes several such
    matrices, each a fresh 16 MiB at a batch of 2048."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, targets: Tensor, hard: Tensor | None, valid: Tensor | None
    ) -> Tensor:
        logits = anchors @ targets.T  # (b, b)
        own = logits.diagonal().clone()
        top = logits.amax(dim=1)
        if hard is not None:
            top = torch.maximum(top, hard)
        powers = logits.sub_(top.unsqueeze(1)).exp_()
        if valid is not None:
            powers.mul_(valid)
        total = powers.sum(dim=1)
        hard_power = None if hard is None else (hard - top).exp()
        if hard_power is not None:
            total = total + hard_power
        weight = torch.full_like(own, 1 / len(own))
        if valid is not None:
            weight = valid / valid.sum().clamp(min=1)
            total = total.where(valid, 1)
        ctx.hard = hard is not None
        ctx.save_for_backward(anchors, targets, powers, total, weight, hard_power)
        return ((total.log() + top - own) * weight).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        anchors, targets, powers, total, weight, hard_power = ctx.saved_tensors
        own = (grads[0] * weight).unsqueeze(1)  # (b, 1)
        share = own / total.unsqueeze(1)
        to_anchors = (powers @ targets) * share - own * targets
        to_targets = powers.T @ (anchors * share) - own * anchors
        return to_anchors, to_targets, hard_power * share.squeeze(1) if ctx.hard else None, None


def in_batch_loss(
    anchors: Tensor, targets: Tensor, hard: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """Mean over rows i of -log exp(a_i.t_i) / (sum_j exp(a_i.t_j) + exp(hard_i)); inputs (b, d), output ().

    Temperatures are the caller's: scale `anchors`. `hard` (b,) is the score of one more negative per row,
    -inf for none. Rows where `valid` (b,) is False are neither anchors nor targets; with none left the loss
    is 0.
    """
    return _InBatch.apply(anchors, targets, hard, valid)  # type: ignore[return-value]
