"""Sparse matrices whose values are learned: a fixed pattern, gradients, memory linear in the entries.

The operations are each other's derivatives: sum(g * (M x)) has the gradient `dots(g, x)` with respect to M's
values, and sum(w * dots(x, y)) has the gradient M(w) y with respect to x. Autograd keeps a number per entry,
never the rows that meet there, (e, d).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .graph import csr


class EdgePattern(nn.Module):
    """The places (row, column) of a matrix (n, m), in any order; several entries of one place add up."""

    rows: Tensor  # (e,) int64, as given
    columns: Tensor
    slots: Tensor | None  # (e,) place of each entry among the s distinct ones; None where entry = place
    transposed: Tensor  # (s,) order of the distinct places by (column, row)

    def __init__(self, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = n, m = shape
        keys, slots = rows * m + columns, None
        if not bool((keys[1:] > keys[:-1]).all()):
            keys, slots = torch.unique(keys, return_inverse=True)
        own_rows, own_columns = keys // m, keys % m
        order = torch.argsort(own_columns, stable=True)
        ones = torch.ones(len(keys), device=keys.device)
        matrix = csr(own_rows, own_columns, ones, (n, m))
        transpose = csr(own_columns[order], own_rows[order], ones, (m, n))
        for name, value in {
            "rows": rows,
            "columns": columns,
            "slots": slots,
            "transposed": order,
            "starts": matrix.crow_indices(),
            "places": matrix.col_indices(),
            "transposed_starts": transpose.crow_indices(),
            "transposed_places": transpose.col_indices(),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def product(self, values: Tensor, x: Tensor, start: Tensor | None = None) -> Tensor:
        """M x (n, d), plus `start`, of the matrix with `values` (e,) and x (m, d)."""
        return _Product.apply(self, False, values, x, start)  # type: ignore[return-value]

    def transposed_product(self, values: Tensor, x: Tensor, start: Tensor | None = None) -> Tensor:
        """M^T x (m, d), plus `start`, for x (n, d)."""
        return _Product.apply(self, True, values, x, start)  # type: ignore[return-value]

    def dots(self, left: Tensor, right: Tensor) -> Tensor:
        """left[row] . right[column] of every entry, (e,), for left (n, d) and right (m, d)."""
        return _Dots.apply(self, left, right)  # type: ignore[return-value]

    def matrix(self, values: Tensor, transposed: bool = False) -> Tensor:
        """M, or M^T, as a CSR tensor without a gradient."""
        values = values.detach()
        if self.slots is not None:
            values = values.new_zeros(len(self.transposed)).index_add_(0, self.slots, values)
        if transposed:
            values = values.index_select(0, self.transposed)
            return _csr(self.transposed_starts, self.transposed_places, values, self.shape[::-1])  # type: ignore[arg-type]
        return _csr(self.starts, self.places, values, self.shape)  # type: ignore[arg-type]

    def plain_dots(self, left: Tensor, right: Tensor) -> Tensor:
        """`dots` without a gradient."""
        if left.dtype != torch.float32:  # only float32 has the fast kernel everywhere
            return (left[self.rows] * right[self.columns]).sum(dim=1)
        places = _csr(self.starts, self.places, left.new_zeros(len(self.transposed)), self.shape)  # type: ignore[arg-type]
        found = torch.sparse.sampled_addmm(places, left, right.T, beta=0.0).values()
        return found if self.slots is None else found.index_select(0, self.slots)


def _csr(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")
        return torch.sparse_csr_tensor(starts, columns, values, size=shape, check_invariants=False)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pattern: EdgePattern, transposed: bool, values: Tensor, x: Tensor, start: Tensor | None
    ) -> Tensor:
        ctx.pattern, ctx.transposed = pattern, transposed
        ctx.save_for_backward(values, x)
        matrix = pattern.matrix(values, transposed)
        return matrix @ x if start is None else torch.addmm(start, matrix, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, (values, x), pattern = grads[0].contiguous(), ctx.saved_tensors, ctx.pattern
        _, _, want_values, want_x, want_start = ctx.needs_input_grad
        ends = (x, gradient) if ctx.transposed else (gradient, x)
        return (
            None,
            None,
            pattern.plain_dots(*ends) if want_values else None,
            pattern.matrix(values, not ctx.transposed) @ gradient if want_x else None,
            gradient if want_start else None,
        )


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pattern: EdgePattern, left: Tensor, right: Tensor) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(left, right)
        return pattern.plain_dots(left, right)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        left, right = ctx.saved_tensors
        _, want_left, want_right = ctx.needs_input_grad
        return (
            None,
            ctx.pattern.matrix(grads[0]) @ right if want_left else None,
            ctx.pattern.matrix(grads[0], transposed=True) @ left if want_right else None,
        )
