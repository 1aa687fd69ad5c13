"""The losses of content alignment (ICA in AlignRec); sums, so that pieces of a batch add up to its mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoders.rows import at_least_float32

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
    own = torch.arange(len(same), device=same.device)
    return (info_nce(images, texts, scale, own, same) + info_nce(texts, images, scale, own, same)) / 2


def joint_loss(
    joint: Tensor, images: Tensor, texts: Tensor, scale: Tensor, own: Tensor, same: Tensor
) -> Tensor:
    """Sum over items of the mean InfoNCE of finding the own image and the own text; see `info_nce`."""
    return (info_nce(joint, images, scale, own, same) + info_nce(joint, texts, scale, own, same)) / 2


def info_nce(queries: Tensor, keys: Tensor, scale: Tensor, own: Tensor, same: Tensor) -> Tensor:
    """Sum of -log softmax(scale * cosine)[own]; unit rows (q, d) and (k, d), `own` (q,) are rows of keys.

    Keys where `same` (q, k) are left out, but for the own one.
    """
    logits = scale * at_least_float32(queries) @ at_least_float32(keys).T  # (q, k)
    others = same & (torch.arange(len(keys), device=own.device) != own[:, None])
    return F.cross_entropy(logits.masked_fill(others, -torch.inf), own, reduction="sum")
