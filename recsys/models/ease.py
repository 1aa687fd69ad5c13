"""EASE^R (Steck, WWW 2019): the best linear item-to-item model with a zero diagonal, in closed form."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field

from ..errors import InputError
from .base import ClosedFormModel, Vectors


class EASE(ClosedFormModel):
    """B = argmin |R - R B|^2 + lambda |B|^2 with B_jj = 0; score(u, j) = sum of B_ij over u's items i.

    `dim` is not used: the vectors are as long as the catalogue, and the memory grows with its square.
    """

    class Options(BaseModel, frozen=True, extra="forbid"):
        reg_weight: Annotated[float, Field(gt=0)] = 200.0  # lambda
        precision: Literal["fp32", "fp64"] = "fp64"  # of the inversion; the vectors are float32
        max_memory_gb: Annotated[float, Field(gt=0)] = 16.0  # refuse catalogues that need more

    def fit(self) -> None:
        dtype = torch.float64 if self.options.precision == "fp64" else torch.float32
        check_square(self.data.n_items, 3 * dtype.itemsize, self.options.max_memory_gb, "ease")
        interactions = self.data.csr()
        overlap = (interactions.T @ interactions).tocoo()  # R^T R
        device = self.data.device
        gram = torch.zeros((self.data.n_items,) * 2, dtype=dtype, device=device)
        rows, columns = (torch.from_numpy(idx).long().to(device) for idx in (overlap.row, overlap.col))
        gram[rows, columns] = torch.from_numpy(overlap.data).to(device, dtype)
        gram.diagonal().add_(self.options.reg_weight)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram, out=gram))  # P in the paper
        weights = inverse.div_(-inverse.diagonal().clone().unsqueeze(1))  # row j: column j of B (P = P^T)
        self.items = weights.fill_diagonal_(0).float().cpu().numpy()

    def vectors(self) -> Vectors:
        return Vectors(self.data.csr(), self.items)


def check_square(n_items: int, bytes_per_entry: int, limit_gb: float, model: str) -> None:
    """InputError when n_items^2 entries do not fit the limit."""
    needed = n_items**2 * bytes_per_entry / 1e9
    if needed > limit_gb:
        raise InputError(
            f"{model} keeps items x items numbers: {n_items:,} items need {needed:,.1f} GB, more than "
            f"max_memory_gb = {limit_gb:g}. Raise [train.{model}] max_memory_gb, or choose a model whose "
            "vectors have a fixed dimension, such as lightgcn."
        )
