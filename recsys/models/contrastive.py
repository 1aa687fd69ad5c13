"""Cross-entropy among the pairs of a batch (InfoNCE), with one matrix of scores in memory and no copy."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .distinct import Distinct

SAFE_BOUND = 40.0  # exp(40) times a batch is far from the largest float32, exp(-40) from the smallest


class _LogSums(torch.autograd.Function):
    """Keeps the exponentials alone. Autograd's chain of matmul, log-softmax and mean makes several matrices
    of that size, each a fresh 16 MiB at a batch of 2048."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, targets: Tensor, counts: Tensor, bound: float | None, masked: bool
    ) -> Tensor:
        scores = anchors @ targets.T  # (m, k)
        top = None
        if bound is None or bound > SAFE_BOUND:
            if masked:  # far above the others, a target that does not count would leave a sum of zero
                scores.add_(torch.zeros_like(counts).masked_fill_(counts == 0, -torch.inf))
            top = scores.amax(dim=1).clamp_(min=torch.finfo(scores.dtype).min)
            scores.sub_(top.unsqueeze(1))
        powers = scores.exp_()
        sums = (powers @ counts).clamp_(min=torch.finfo(powers.dtype).tiny)
        ctx.save_for_backward(anchors, targets, counts, powers, sums)
        return sums.log() if top is None else sums.log() + top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        anchors, targets, counts, powers, sums = ctx.saved_tensors
        share = (grads[0] / sums).unsqueeze(1)
        to_anchors = (powers @ (targets * counts.unsqueeze(1))).mul_(share)
        to_targets = (powers.T @ (anchors * share)).mul_(counts.unsqueeze(1))
        return to_anchors, to_targets, None, None, None


def log_sums(
    anchors: Tensor, targets: Tensor, counts: Tensor, bound: float | None = None, masked: bool = False
) -> Tensor:
    """log sum_c counts_c exp(a_r . t_c) per anchor r, (m,), for anchors (m, d) and targets (k, d).

    `bound`: what no |a_r . t_c| exceeds, where that is known (1 / temperature for cosines); saves a search
    for the maxima. `masked`: some counts are zero.
    """
    return _LogSums.apply(anchors, targets, counts, bound, masked)  # type: ignore[return-value]


def in_batch_loss(
    anchors: Tensor,
    targets: Tensor,
    left: Distinct,
    right: Distinct,
    bound: float | None = None,
    hard: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Mean over the batch of -log exp(a_i . t_i) / (sum_j exp(a_i . t_j) + exp(hard_i)), from distinct rows.

    `anchors` (m, d) are the rows of `left`, `targets` (k, d) those of `right`: nothing is computed twice for
    users and items that occur again. Temperatures are the caller's: scale `anchors`. `hard` (b,) scores one
    more negative per pair, -inf for none. Pairs whose target is not `valid` (k,) are left out on both sides;
    with none left the loss is 0. `bound` as in `log_sums`.
    """
    counts = right.counts if valid is None else right.counts * valid
    sums = log_sums(anchors, targets, counts, bound, valid is not None).index_select(0, left.slots)
    if hard is not None:
        sums = torch.logaddexp(sums, hard)
    own = (F.embedding(left.slots, anchors) * F.embedding(right.slots, targets)).sum(dim=1)
    losses = sums - own
    if valid is None:
        return losses.mean()
    kept = valid[right.slots]
    return losses.where(kept, 0).sum() / kept.sum().clamp(min=1)


def cosine_contrast(
    anchors: Tensor, targets: Tensor, nodes: Distinct, temperature: float, valid: Tensor
) -> Tensor:
    """`in_batch_loss` of the cosines of two representations, (m, d) each, of the same distinct `nodes`, over
    `temperature`, among those that are `valid` (m,)."""
    bound = 1 / temperature
    return in_batch_loss(
        F.normalize(anchors, dim=1) * bound, F.normalize(targets, dim=1), nodes, nodes, bound, valid=valid
    )


def sampled_softmax(users: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Mean of -log exp(cos_ui / t) / (exp(cos_ui / t) + sum_j exp(cos_uj / t)), j over all rows (m, d) of
    `negatives`; users and positives (b, d)."""
    bound = 1 / temperature
    anchors, targets = F.normalize(users, dim=1) * bound, F.normalize(negatives, dim=1)
    own = (anchors * F.normalize(positives, dim=1)).sum(dim=1)
    others = log_sums(anchors, targets, torch.ones_like(targets[:, 0]), bound)
    return (torch.logaddexp(own, others) - own).mean()
