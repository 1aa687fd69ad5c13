"""Sparse matrices whose values are learned: a fixed pattern, gradients, memory linear in the entries.

The two operations are each other's derivative: sum(g * (M x)) has the gradient `dots(g, x)` with respect to
M's values, and sum(w * dots(x, y)) has the gradient M(w) y with respect to x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .graph import csr

DOTS_AT_ONCE = 2**18  # entries whose two rows are gathered together; bounds the memory of `dots`


class EdgePattern(nn.Module):
    """The places (row, column) of a matrix (n, m), in any order; several entries of one place add up."""

    rows: Tensor  # (e,) int64, as given
    columns: Tensor
    keys: Tensor  # (s,) row * m + column of the distinct places, ascending
    slots: Tensor  # (e,) place of each entry among the s distinct ones, sorted by (row, column)
    transposed: Tensor  # (s,) order of the distinct places by (column, row)

    def __init__(self, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        keys, slots = torch.unique(rows * shape[1] + columns, return_inverse=True)
        order = torch.argsort(keys % shape[1], stable=True)
        buffers = {"rows": rows, "columns": columns, "keys": keys, "slots": slots, "transposed": order}
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def product(self, values: Tensor, x: Tensor) -> Tensor:
        """M x (n, d) of the matrix with `values` (e,) and x (m, d)."""
        return _Product.apply(self, self.matrices(values), values, x)  # type: ignore[return-value]

    def dots(self, left: Tensor, right: Tensor) -> Tensor:
        """left[row] . right[column] of every entry, (e,), for left (n, d) and right (m, d)."""
        return _Dots.apply(self, left, right)  # type: ignore[return-value]

    def matrices(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """M and its transpose as CSR tensors without a gradient."""
        merged = values.new_zeros(len(self.keys)).index_add_(0, self.slots, values.detach())
        n, m = self.shape
        rows, columns, order = self.keys // m, self.keys % m, self.transposed
        transpose = csr(columns[order], rows[order], merged[order], (m, n))
        return csr(rows, columns, merged, self.shape), transpose


def gathered_dots(pattern: EdgePattern, left: Tensor, right: Tensor) -> Tensor:
    """`EdgePattern.dots` without a gradient."""
    parts = zip(pattern.rows.split(DOTS_AT_ONCE), pattern.columns.split(DOTS_AT_ONCE), strict=True)
    return torch.cat([(left[rows] * right[columns]).sum(dim=1) for rows, columns in parts])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pattern: EdgePattern, matrices: tuple[Tensor, Tensor], values: Tensor, x: Tensor
    ) -> Tensor:
        ctx.pattern, ctx.transpose = pattern, matrices[1]
        ctx.save_for_backward(x)
        return matrices[0] @ x

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[None, None, Tensor | None, Tensor]:
        gradient, (x,) = grads[0].contiguous(), ctx.saved_tensors
        to_values = gathered_dots(ctx.pattern, gradient, x) if ctx.needs_input_grad[2] else None
        return None, None, to_values, ctx.transpose @ gradient


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pattern: EdgePattern, left: Tensor, right: Tensor) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(left, right)
        return gathered_dots(pattern, left, right)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        left, right = ctx.saved_tensors
        matrix, transpose = ctx.pattern.matrices(grads[0])
        return None, matrix @ right, transpose @ left
