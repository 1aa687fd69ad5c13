"""Several views of an item joined into one row: weights over the views, and what is learned of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import FusionConfig

RELEASED_MEAN = 3  # views that the released mean is over: title, brand and category
SLOPE = 0.01  # of the leaky ReLU


@dataclass(frozen=True, slots=True)
class ItemViews:
    """Some items in every view that is joined. Absent rows are zero."""

    views: Sequence[Tensor]  # each (b, d) float32
    present: Tensor  # (b, n_views) bool
    image: Tensor | None  # (b, d) float32
    has_image: Tensor | None  # (b,) bool


def masked_softmax(logits: Tensor, present: Tensor) -> Tensor:
    """Softmax over the present columns, (b, n): exactly 0 where absent; all zeros where nothing is there."""
    absent = ~present & present.any(dim=1, keepdim=True)
    return logits.masked_fill(absent, -torch.inf).softmax(dim=1) * present


def similarity_weights(items: ItemViews, temperature: float) -> Tensor:
    """CLIPER's weights, (b, n_views): softmax over an item's views of cosine(view, image) / temperature.

    Without an image, all its views weigh the same.
    """
    assert items.image is not None
    cosines = [F.cosine_similarity(view, items.image, dim=1, eps=1e-12) for view in items.views]
    return masked_softmax(torch.stack(cosines, dim=1) / temperature, items.present)


class Gate(nn.Module):
    """Softmax over an item's views of w_v . x_v + u_v . image + b_v, (b, n_views); at first all the same.

    Rows are scaled to length sqrt(d), so that their entries are about 1, whatever encoder they come from.
    """

    def __init__(self, n_views: int, dim: int, image_dim: int | None) -> None:
        super().__init__()
        self.of_view = nn.Parameter(torch.zeros(n_views, dim))  # w
        self.of_image = nn.Parameter(torch.zeros(n_views, image_dim)) if image_dim else None  # u
        self.bias = nn.Parameter(torch.zeros(n_views))  # b

    def forward(self, items: ItemViews) -> Tensor:
        logits = [scaled(view) @ weight for view, weight in zip(items.views, self.of_view, strict=True)]
        total = torch.stack(logits, dim=1) + self.bias
        if self.of_image is not None:
            assert items.image is not None
            total = total + scaled(items.image) @ self.of_image.T
        return masked_softmax(total, items.present)


class Attention(nn.Module):
    """Self-attention over [image; views]: the mean of its rows of the present views, (b, 1 + n_views).

    Rows x are scaled as in `Gate`; logits are (x W_q) . (x' W_k) / sqrt(width). There is no W_v: the values
    stay as they are, since every model maps them linearly (`width` of the fusion is such a map).
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.xavier_normal_(torch.empty(dim, width)))
        self.key = nn.Parameter(nn.init.xavier_normal_(torch.empty(dim, width)))

    def forward(self, items: ItemViews) -> Tensor:
        assert items.image is not None and items.has_image is not None
        rows = torch.stack([scaled(row) for row in (items.image, *items.views)], dim=1)  # (b, 1 + n, d)
        logits = (rows[:, 1:] @ self.query) @ (rows @ self.key).mT / math.sqrt(self.query.shape[1])
        present = torch.cat([items.has_image.unsqueeze(1), items.present], dim=1)
        n, asking, asked = logits.shape
        attention = masked_softmax(
            logits.reshape(n * asking, asked), present.repeat_interleave(asking, dim=0)
        ).view(n, asking, asked)
        asks = items.present / items.present.sum(dim=1, keepdim=True).clamp(min=1)  # (b, n)
        return (asks.unsqueeze(1) @ attention).squeeze(1)


class Fusion(nn.Module):
    """One row of `dim` per item from its views: (b, dim), zero for items without any of them.

    `dims` are the widths of the views; those that are summed must be equal. Parameters are drawn from torch's
    default generator.
    """

    def __init__(self, config: FusionConfig, dims: Sequence[int], image_dim: int | None) -> None:
        super().__init__()
        self.config, kind = config, config.kind
        self.weighting: nn.Module | None = None
        if kind == "gated":
            self.weighting = Gate(len(dims), dims[0], image_dim)
        elif kind == "self-attention":
            self.weighting = Attention(dims[0], config.attention_dim)
        joined = sum(dims) if kind in ("concat", "mlp") else dims[0]
        width = config.width or (dims[0] if kind == "mlp" else None)
        self.map = nn.Linear(joined, width, bias=kind == "mlp") if width else None
        if self.map is not None and kind != "mlp":  # directions keep their angles at first
            nn.init.orthogonal_(self.map.weight)
        if kind == "mlp" and config.as_released:  # there, it is computed once, before training
            self.requires_grad_(False)
        self.dim = width or joined

    def weights(self, items: ItemViews) -> Tensor:
        """Of the views, (b, n_views), for self-attention of [image; views]; they sum to 1 over what an item
        has, but for `sum`. Not of concat and mlp."""
        kind = self.config.kind
        if self.weighting is not None:
            return self.weighting(items)
        if kind == "similarity":
            return similarity_weights(items, self.config.temperature)
        counted = items.present.float()
        if kind == "mean" and self.config.as_released:
            counted[:, RELEASED_MEAN:] = 0
        return counted if kind == "sum" else counted / counted.sum(dim=1, keepdim=True).clamp(min=1)

    def forward(self, items: ItemViews) -> Tensor:
        joined = self._join(items)
        if self.map is None:
            return joined
        mapped = self.map(joined)
        if self.config.kind != "mlp":
            return mapped
        return F.leaky_relu(mapped, SLOPE) * items.present.any(dim=1, keepdim=True)

    def _join(self, items: ItemViews) -> Tensor:
        kind, rows = self.config.kind, list(items.views)
        if kind in ("concat", "mlp"):
            return torch.cat(rows, dim=1)
        if kind == "self-attention":
            rows = [cast(Tensor, items.image), *rows]
        weights = self.weights(items).unsqueeze(2).unbind(dim=1)  # each (b, 1)
        total = rows[0] * weights[0]
        for row, weight in zip(rows[1:], weights[1:], strict=True):
            total = total.addcmul(row, weight)
        return total


def scaled(rows: Tensor) -> Tensor:
    """Rows (b, d) at length sqrt(d); zero rows stay."""
    return F.normalize(rows, dim=1, eps=1e-12) * math.sqrt(rows.shape[1])
