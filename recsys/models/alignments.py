"""AlignRec's alignments (Liu et al., CIKM 2024): content and ids, users and items, vectors and features."""

from __future__ import annotations

import torch
from torch import Tensor

from ..unit_rows import unit_rows
from .contrastive import cosine_contrast
from .distinct import Distinct

GRAM_BLOCK = 256  # rows of a Gram matrix in memory at a time


def content_id_alignment(
    content: Tensor, ids: Tensor, nodes: Distinct, temperature: float, valid: Tensor
) -> Tensor:
    """CCA: InfoNCE from the content side of a batch's nodes to their id side, both (m, d) rows of `nodes`;
    0 where none is `valid` (m,), that is, has content."""
    return cosine_contrast(content, ids, nodes, temperature, valid)


def user_item_alignment(users: Tensor, positives: Tensor) -> Tensor:
    """UIA: mean of 1 - cos of users and their positives, (b, d); a zero row has cosine 0."""
    return 1 - (unit_rows(users) * unit_rows(positives)).sum(dim=1).mean()


def similarity_preservation(content: Tensor, features: Tensor, weights: Tensor) -> Tensor:
    """REG: |Z Z^T - G|_F / b, Z the content side of a batch's positives and G the cosines of their features.

    From distinct rows, content (m, d) and features (m, D), that stand for `weights` (m,) >= 0 rows of the
    batch each: 0 leaves a row out, b is their sum. By traces, |Z Z^T - V V^T|^2 = |Z^T Z|^2 - 2 |V^T Z|^2
    + |V^T V|^2: no matrix of pairs. No gradient reaches the features.
    """
    scale = weights.sqrt().unsqueeze(1)
    rows, unit = content * scale, unit_rows(features.detach()) * scale
    squared = (rows.T @ rows).square().sum().double() - 2 * (unit.T @ rows).square().sum().double()
    size = weights.sum().clamp(min=1)  # a batch that nothing is left of needs a floor above 0 as well
    tiny = torch.finfo(rows.dtype).eps * size.square()  # what rounding leaves of a perfect fit
    squared = (squared + squared_gram_norm(unit)).clamp(min=1e-3 * tiny.double())
    return (squared.sqrt() / size).to(rows.dtype)


@torch.no_grad()
def squared_gram_norm(x: Tensor) -> Tensor:
    """|X X^T|_F^2 = |X^T X|_F^2 of x (m, D) as a float64 scalar: the upper half of the smaller one, in
    blocks of rows."""
    x = x if x.shape[0] <= x.shape[1] else x.T.contiguous()
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), GRAM_BLOCK):
        rows, rest = x[start : start + GRAM_BLOCK], x[start + GRAM_BLOCK :]
        total += (rows @ rows.T).square().sum()
        if len(rest):
            total += 2 * (rows @ rest.T).square().sum()
    return total
