"""Rows scaled to length 1, with a short gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        scale = length.reciprocal().masked_fill_(length < torch.finfo(x.dtype).tiny, 0)
        unit = x * scale
        ctx.save_for_backward(unit, scale)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        unit, scale = ctx.saved_tensors
        along = torch.linalg.vecdot(grads[0], unit).unsqueeze(1)
        return torch.addcmul(grads[0], unit, along, value=-1).mul_(scale)


def unit_rows(x: Tensor) -> Tensor:
    """x / |x| per row of (n, d). A zero row stays zero and has no gradient, where `F.normalize` would pass it
    on 1e12 times as large."""
    return _UnitRows.apply(x)  # type: ignore[return-value]
