"""What encoders with an expert per modality share: routing, attention, patch tokens, resized positions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Parts = dict[str, Tensor]  # expert -> (n, tokens, d), in the order of the joint sequence


class Multiway(nn.ModuleDict):
    """One module of the same kind per modality (VLMo, NeurIPS 2022; BEiT-3, CVPR 2023)."""

    def __init__(self, make: Callable[[], nn.Module], experts: Iterable[str]) -> None:
        super().__init__({expert: make() for expert in experts})

    def forward(self, parts: Parts) -> Parts:
        """Every part through the expert of its name."""
        return {expert: self[expert](tokens) for expert, tokens in parts.items()}


def joined(parts: Parts) -> Tensor:
    """All tokens in one sequence, (n, tokens of all parts, d)."""
    sequences = list(parts.values())
    return sequences[0] if len(sequences) == 1 else torch.cat(sequences, dim=1)


def parted(tokens: Tensor, like: Parts) -> Parts:
    """The sequence cut into parts as long as those of `like`."""
    lengths = [part.shape[1] for part in like.values()]
    return dict(zip(like, tokens.split(lengths, dim=1), strict=True))


def added(parts: Parts, change: Parts) -> Parts:
    """The residual step, part by part."""
    return {expert: tokens + change[expert] for expert, tokens in parts.items()}


def attend(queries: Tensor, keys: Tensor, values: Tensor, n_heads: int, mask: Tensor | None) -> Tensor:
    """Softmax attention of (n, tokens, d) rows, heads side by side in d; returns (n, tokens, d).

    `mask` broadcasts to (n, heads, queries, keys): True where a key may be seen, or numbers that are added
    to the logits, which are scaled by head_dim^-1/2.
    """
    by_head = [rows.unflatten(2, (n_heads, -1)).transpose(1, 2) for rows in (queries, keys, values)]
    mixed = F.scaled_dot_product_attention(*by_head, attn_mask=mask)  # (n, heads, tokens, d / heads)
    return mixed.transpose(1, 2).flatten(2)


def patch_tokens(
    images: Tensor,
    projection: nn.Conv2d,
    cls_token: Tensor,
    masked: Tensor | None = None,
    mask_token: Tensor | None = None,
) -> Tensor:
    """(n, 3, h, w) images as (n, 1 + patches, d): the class token, then the patches row by row.

    Where `masked` (n, patches) is True, `mask_token` (1, 1, d) stands for the patch. Positions are not in.
    """
    patches = projection(images).flatten(2).transpose(1, 2)  # (n, patches, d)
    if masked is not None and mask_token is not None:
        patches = torch.where(masked[:, :, None], mask_token.to(patches.dtype), patches)
    return torch.cat([cls_token.to(patches.dtype).expand(len(patches), -1, -1), patches], dim=1)


def resize_patch_rows(rows: Tensor, side: int) -> Tensor:
    """Position rows (s * s, d) of an s x s grid of patches, bicubic, for a side x side grid."""
    grid = rows.T.unflatten(1, (-1, round(len(rows) ** 0.5)))[None]  # (1, d, s, s)
    resized = F.interpolate(grid.float(), size=(side, side), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.contiguous().to(rows.dtype)
