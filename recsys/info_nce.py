"""InfoNCE between two representations of the same nodes, in blocks, with its gradient on the way."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_BLOCK_BYTES = 2 * 2**20  # of similarities; larger blocks fall out of the cache
GPU_BLOCK_BYTES = 64 * 2**20


def info_nce(anchors: Tensor, targets: Tensor, temperature: float, weights: Tensor) -> Tensor:
    """Mean over rows i of -log exp(cos(a_i, t_i) / temperature) / sum_j exp(cos(a_i, t_j) / temperature).

    Inputs (b, d). Row i counts `weights[i]` >= 0 times, as anchor and as target: how often it occurs in a
    batch, or 0 for one that is left out. Without any weight the loss is 0.
    """
    anchors, targets = F.normalize(anchors, dim=1) / temperature, F.normalize(targets, dim=1)
    return _InfoNCE.apply(anchors, targets, weights)  # type: ignore[return-value]


class _InfoNCE(torch.autograd.Function):
    """(b, d), (b, d), (b,) -> (): both gradients are summed up block by block in the forward pass, so that
    no (b, b) matrix outlives its block."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        log_weights, shares = weights.log(), weights / weights.sum().clamp(min=1e-12)
        to_anchors, to_targets = torch.empty_like(anchors), torch.zeros_like(targets)
        loss = anchors.new_zeros(())
        budget = CPU_BLOCK_BYTES if anchors.device.type == "cpu" else GPU_BLOCK_BYTES
        n_rows = max(1, budget // (4 * len(targets)))
        for start in range(0, len(anchors), n_rows):
            block = slice(start, start + n_rows)
            rows, share = anchors[block], shares[block]
            logits = torch.addmm(log_weights, rows, targets.T)  # (n, b), -inf where a target does not count
            top = logits.amax(dim=1).clamp_(min=-1e30)
            powers = logits.sub_(top.unsqueeze(1)).exp_()
            total = powers.sum(dim=1).clamp_(min=1e-30)
            own = (rows * targets[block]).sum(dim=1)
            loss = loss + (share * (total.log() + top - own)).sum()
            if wanted:
                scaled = (share / total).unsqueeze(1)
                to_anchors[block] = (powers @ targets) * scaled
                to_targets.addmm_(powers.T, rows * scaled)
        if wanted:
            to_anchors.addcmul_(shares.unsqueeze(1), targets, value=-1)
            to_targets.addcmul_(shares.unsqueeze(1), anchors, value=-1)
            ctx.save_for_backward(to_anchors, to_targets)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        to_anchors, to_targets = ctx.saved_tensors
        return grads[0] * to_anchors, grads[0] * to_targets, None
