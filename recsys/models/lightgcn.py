"""LightGCN (He et al., SIGIR 2020): embeddings smoothed over the user-item graph, nothing else."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor

from ..graph import BipartiteGraph
from ..losses import margins
from .base import GradientModel, TrainingData
from .bpr import penalised, ranking_loss
from .contrastive import sampled_softmax
from .embeddings import id_embedding

DEGREE_EPSILON = 1e-7  # that MMRec adds to degrees


class LightGCN(GradientModel):
    """score(u, i) of the mean over layers; loss = BPR + reg_weight * L2 of the layer-0 rows (eq. 15).

    With `loss = "softmax"` the loss is the sampled softmax of cosines (Wu et al., TOIS 2024, eq. 5): every
    positive competes with all negatives of the batch, at `temperature`, and item vectors have unit length.
    """

    reads_views = False

    class Options(BaseModel, frozen=True, extra="forbid"):
        n_layers: Annotated[int, Field(ge=0)] = 3
        reg_weight: Annotated[float, Field(ge=0)] = 1e-3
        loss: Literal["bpr", "softmax"] = "bpr"
        temperature: Annotated[float, Field(gt=0)] = 0.3  # of the softmax
        as_released: bool = False  # as in MMRec: norms in place of squares, cold rows start at random

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        self.rows_independent = options.loss == "bpr"
        self.user = id_embedding(data.user_degree, dim, zero_cold=not options.as_released)
        self.item = id_embedding(data.item_degree, dim, zero_cold=not options.as_released)
        epsilon = DEGREE_EPSILON if options.as_released else 0.0
        self.graph = BipartiteGraph(data.user_idx, data.item_idx, data.n_users, data.n_items, epsilon)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        items, options = torch.cat([positives, negatives]), self.options
        final_users, final_items, ego_users, ego_items = self.graph.propagate_rows(
            self.user.weight, self.item.weight, options.n_layers, users, items
        )
        chosen, others = final_items.chunk(2)
        egos = ego_users, *ego_items.chunk(2)
        if options.loss == "bpr":
            margin = margins(final_users, chosen, others)
            return ranking_loss(margin, egos, options.reg_weight, options.as_released)
        softmax = sampled_softmax(final_users, chosen, others, options.temperature)
        return penalised("softmax", softmax, egos, options.reg_weight, options.as_released)

    def forward(self) -> tuple[Tensor, Tensor]:
        users, items = self.graph.propagate(self.user.weight, self.item.weight, self.options.n_layers)
        return users, items if self.options.loss == "bpr" else F.normalize(items, dim=1)
