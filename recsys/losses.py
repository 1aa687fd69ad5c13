"""Losses on rows of a batch; every function returns a scalar."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def bpr_loss(users: Tensor, positives: Tensor, negatives: Tensor, epsilon: float = 0.0) -> Tensor:
    """Mean -log sigmoid(x_ui - x_uj) (BPR-Opt, Rendle et al., UAI 2009); inputs (b, d)."""
    return margin_loss(margins(users, positives, negatives), epsilon)


def margins(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """x_uij = x_ui - x_uj of rows (b, d): (b,)."""
    return (users * (positives - negatives)).sum(dim=-1)


def margin_loss(margin: Tensor, epsilon: float = 0.0, valid: Tensor | None = None) -> Tensor:
    """`bpr_loss` of `margins` (b,).

    `valid` (b,) bool restricts the mean to those triples; without any the loss is 0. `epsilon` > 0 gives
    -log(epsilon + sigmoid(.)), the form that MMRec's models use.
    """
    losses = -torch.log(epsilon + torch.sigmoid(margin)) if epsilon else -F.logsigmoid(margin)
    if valid is None:
        return losses.mean()
    return losses.where(valid, 0).sum() / valid.sum().clamp(min=1)


def l2_loss(*rows: Tensor) -> Tensor:
    """Half the sum of squares over all inputs (b, ...) divided by b: the L2 term of BPR-Opt per triple."""
    return sum((_SquaredSum.apply(matrix) for matrix in rows), rows[0].new_zeros(())) / (2 * len(rows[0]))


def norm_loss(*rows: Tensor) -> Tensor:
    """Sum of Frobenius norms, NOT squared, over the inputs (b, ...), divided by b: MMRec's `EmbLoss`.

    Its gradient has a length that does not depend on the size of the embeddings, so it does not shrink
    large ones more than small ones, as an L2 term does.
    """
    return sum((torch.linalg.vector_norm(matrix) for matrix in rows), rows[0].new_zeros(())) / len(rows[-1])


class _SquaredSum(torch.autograd.Function):
    """Sum of the squares of x, without a copy of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        flat = x.reshape(-1)
        return torch.dot(flat, flat)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.saved_tensors[0] * (2 * grads[0])
