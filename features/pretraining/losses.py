"""The losses of content alignment (ICA in AlignRec); sums, so that pieces of a batch add up to its mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FLAT = 1e-6  # added to the variance of a patch: one of a single colour becomes zeros


def patch_pixels(images: Tensor, patch_size: int) -> Tensor:
    """(n, 3, s, s) images as (n, patches, 3 p^2) normalised patches, row by row.

    Each patch has mean 0 and variance 1 over its pixels and channels (He et al., MAE, CVPR 2022).
    """
    patches = F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)  # (n, patches, 3 p^2)
    centred = patches - patches.mean(dim=2, keepdim=True)
    return centred / (patches.var(dim=2, keepdim=True, unbiased=False) + FLAT).sqrt()


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log softmax(logits)[target]: L_mlm and, of visual codes, L_mim; (m, ids) and (m,) to ()."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def summary_loss(logits: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
    """Sum over texts of the mean -log softmax(logits)[token]: each text as a bag of its tokens.

    One row of `logits` (n, ids) for each text.
    """
    log_p = logits.float().log_softmax(dim=1)
    rows = torch.tensor([n for n, text in enumerate(texts) for _ in text], device=logits.device)
    tokens = torch.tensor([token for text in texts for token in text], device=logits.device)
    weights = torch.tensor([1 / len(text) for text in texts for _ in text], device=logits.device)
    return -(log_p[rows, tokens] * weights).sum()


def pixel_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Sum over hidden patches of the mean squared error; both (m, 3 p^2), result ()."""
    return (predicted.float() - targets).square().mean(dim=1).sum()


def teacher_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Sum over images of 1 - cosine with the teacher's vector; both (m, d), result ()."""
    return (1 - F.cosine_similarity(predicted.float(), targets, dim=1)).sum()


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Sum over pairs of the mean of both directions' InfoNCE; unit rows (b, d), scale (), result ().

    `same` (b, b) is True for two items that cannot be told apart, themselves included: they are no
    negatives of each other.
    """
    logits = scale * images.float() @ texts.float().T  # (b, b)
    duplicate = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = logits.masked_fill(duplicate, -torch.inf)
    targets = torch.arange(len(logits), device=logits.device)
    both = (F.cross_entropy(side, targets, reduction="sum") for side in (logits, logits.T))
    return sum(both, logits.new_zeros(())) / 2
