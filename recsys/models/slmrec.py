"""SLMRec (Tao et al., IEEE TMM 2022): softmax ranking, and views that must recognise one another."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ..graph import BipartiteGraph
from ..losses import l2_loss
from .base import GradientModel, TrainingData
from .contrastive import in_batch_loss
from .distinct import Distinct, distinct
from .embeddings import require_modalities
from .snapshot import Snapshot
from .view_fusion import ViewFusion

RELEASED_EPSILON = 1e-8  # that the released code adds to degrees


class SLMRec(GradientModel):
    """score(u, i) of the joined views (`ViewFusion`); loss = in-batch softmax of cosines / temperature
    + ssl_weight * FAC (fine and coarse spaces): ids meet view 1 in a first space, which goes on by linear
    maps to meet view 2 in a second, and so on. Negatives are the batch's other positives.

    A view takes part in FAC with the items that have it.
    """

    rows_independent = False  # the contrast is within a batch

    class Options(BaseModel, frozen=True, extra="forbid"):
        n_layers: Annotated[int, Field(ge=0)] = 3
        temperature: Annotated[float, Field(gt=0)] = 0.2  # of the ranking softmax
        ssl_weight: Annotated[float, Field(ge=0)] = 0.01  # lambda, of FAC
        ssl_temperature: Annotated[float, Field(gt=0)] = 0.5
        reg_weight: Annotated[float, Field(ge=0)] = 1e-4  # L2 of the batch's id rows
        fusion: Literal["concat", "mean"] = "concat"  # of the views before the last linear map
        as_released: bool = (
            False  # as in MMRec: no L2, one more map before view 2, stale scores, random cold rows
        )

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        views, released = require_modalities("slmrec", data.modalities), options.as_released
        self.views = tuple(views)
        self.fusion = ViewFusion(data, views, dim, options.n_layers, options.fusion == "mean", not released)
        widths = [dim] * (len(views) + 1)
        if len(views) > 1:
            widths[-1] = max(1, dim // 2)
        self.spaces = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))  # from the ids, then on
        self.entries = nn.ModuleList(nn.Linear(dim, width) for width in widths[1:])  # of the views
        if released and len(views) == 2:  # the place of the audio between image and text
            self.spaces[1] = nn.Sequential(nn.Linear(dim, dim), nn.Linear(dim, widths[-1]))
        self.spaces.to(data.device)
        self.entries.to(data.device)
        epsilon = RELEASED_EPSILON if released else 0.0
        self.graph = BipartiteGraph(data.user_idx, data.item_idx, data.n_users, data.n_items, epsilon)
        self.complete = [bool(view.present.all()) for view in views.values()]
        self.snapshot = Snapshot(data.n_users, data.n_items, dim, data.device) if released else None

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        fusion, inputs = self.fusion, self.fusion.inputs()
        all_users = fusion.users(self.graph, inputs, range(fusion.n_views))
        all_users = all_users + fusion.read_user.bias
        all_items = fusion.raw_items(self.graph, inputs)
        if self.snapshot is not None:
            self.snapshot.take(all_users, fusion.join_items(all_items))
        left, right, bound = distinct(users), distinct(positives), 1 / self.options.temperature
        raw = [F.embedding(right.rows, table) for table in all_items]
        chosen = F.normalize(fusion.join_items(raw), dim=1)
        rows = F.normalize(F.embedding(left.rows, all_users), dim=1)
        parts = {"softmax": in_batch_loss(rows * bound, chosen, left, right, bound)}
        parts["ssl"] = self._recognition(raw, right)
        loss = parts["softmax"] + self.options.ssl_weight * parts["ssl"]
        if self.snapshot is None:
            parts["reg"] = l2_loss(fusion.user(users), fusion.item(positives))
            loss = loss + self.options.reg_weight * parts["reg"]
        return {"loss": loss, **parts}

    def _recognition(self, raw: list[Tensor], items: Distinct) -> Tensor:
        """FAC of the batch's items, from their rows (m, dim) in every view."""
        total, place = raw[0].new_zeros(()), raw[0]
        for number, (space, entry) in enumerate(zip(self.spaces, self.entries, strict=True)):
            place = space(place)
            present = self.fusion.projections[number].present
            valid = None if self.complete[number] else present[items.rows]  # type: ignore[index]
            targets = entry(raw[number + 1])
            anchors = place / self.options.ssl_temperature
            total = total + in_batch_loss(anchors, targets, items, items, valid=valid)
        return total

    def forward(self) -> tuple[Tensor, Tensor]:
        if self.snapshot is not None and self.snapshot.taken:
            return self.snapshot.users, self.snapshot.items
        return self.fusion(self.graph)
