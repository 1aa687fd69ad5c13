"""MMGCL (Yi et al., SIGIR 2022): LightGCN over views, trained on two perturbed copies of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor

from ..contrastive import in_batch_loss
from ..graph import BipartiteGraph
from ..losses import bpr_loss, l2_loss
from ..one_sided import Graph, Subgraphs
from .base import GradientModel, TrainingData
from .embeddings import require_modalities
from .freedom import view_weights
from .snapshot import Snapshot
from .view_fusion import ViewFusion

RELEASED_EPSILON = 1e-5  # inside the logarithm of the released BPR


class MMGCL(GradientModel):
    """score(u, i) of the joined views (`ViewFusion`); loss = BPR + ssl_weight * sum of two InfoNCE.

    InfoNCE sets a user against the items of the batch, in one perturbed copy. ED: all passes of the copy run
    on a graph without some edges. MM: one view, drawn per step, passes over a graph without some users and
    items, the others over the whole graph. CN: one more negative per pair, the item with that view of the
    negative item.

    Copies are ED and MM; without MM both are ED. A negative item that lacks the view adds no CN term.
    """

    class Options(BaseModel, frozen=True, extra="forbid"):
        n_layers: Annotated[int, Field(ge=0)] = 3
        tasks: Literal["ED", "ED+MM", "ED+MM+CN"] = "ED+MM+CN"
        ssl_weight: Annotated[float, Field(ge=0)] = 0.1  # alpha
        ssl_temperature: Annotated[float, Field(gt=0)] = 0.2
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3  # share of edges (ED), of users and items (MM)
        image_share: Annotated[float, Field(ge=0, le=1)] = (
            0.1  # how often the view of MM and CN is an image's
        )
        reg_weight: Annotated[float, Field(ge=0)] = 1e-4  # L2 of the batch's id rows
        as_released: bool = (
            False  # as in LMM4Rec: copy 1 counts twice, no MM, CN, L2; stale scores, random cold rows
        )

    view_chances: Tensor  # (n_views,) of MM and CN

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        views, released = require_modalities("mmgcl", data.modalities), options.as_released
        self.fusion = ViewFusion(data, views, dim, options.n_layers, mean=False, zero_cold=not released)
        pairs = data.user_idx, data.item_idx, data.n_users, data.n_items
        self.graph, self.subgraphs = BipartiteGraph(*pairs), Subgraphs(*pairs)
        chances = torch.tensor(list(view_weights(views, options.image_share).values()))
        self.register_buffer("view_chances", chances, persistent=False)
        self.snapshot = Snapshot(data.n_users, data.n_items, dim, data.device) if released else None

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        bpr, first, second = (self._released_terms if self.snapshot else self._terms)(
            users, positives, negatives
        )
        loss = bpr + self.options.ssl_weight * (first + second)
        parts = {"bpr": bpr, "ssl": first + second}
        if self.snapshot is None:
            fusion = self.fusion
            parts["reg"] = l2_loss(fusion.user(users), fusion.item(positives), fusion.item(negatives))
            loss = loss + self.options.reg_weight * parts["reg"]
        return {"loss": loss, **parts}

    def _terms(self, users: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """BPR and the InfoNCE of both copies."""
        view = self.draw_view() + 1
        blocks = [[view], [other for other in range(self.fusion.n_views) if other != view]]
        inputs, items = self.fusion.inputs(), torch.cat([positives, negatives])

        def rows(graph: Graph, chosen: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
            """(b, blocks, dim) of the users and (2 b, blocks, dim) of the positives and negatives."""
            all_users = self.fusion.users(graph, inputs, chosen)
            all_items = self.fusion.items(graph, inputs, chosen)
            return _rows(all_users, users), _rows(all_items, items)

        whole_users, whole_items = rows(self.graph, blocks)
        chosen_items, other_items = self._item(whole_items).chunk(2)
        bpr = bpr_loss(self._user(whole_users), chosen_items, other_items)
        lacks = ~self.fusion.projections[view - 1].present[negatives]  # type: ignore[index, operator]
        first = self._info_nce(*rows(self.subgraphs.keep(self.draw_edges()), blocks), lacks)
        if self.options.tasks == "ED":
            return bpr, first, self._info_nce(*rows(self.subgraphs.keep(self.draw_edges()), blocks), lacks)
        masked_users, masked_items = rows(self.subgraphs.keep(self.draw_nodes()), blocks[:1])
        second_users = torch.cat([masked_users, whole_users[:, 1:]], dim=1)
        second_items = torch.cat([masked_items, whole_items[:, 1:]], dim=1)
        return bpr, first, self._info_nce(second_users, second_items, lacks)

    def _released_terms(
        self, users: Tensor, positives: Tensor, negatives: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """BPR and twice the InfoNCE of one ED copy; of two where ED is the only task."""
        assert self.snapshot is not None
        all_users, all_items = self.fusion(self.graph)
        self.snapshot.take(all_users, all_items)
        chosen, others = _rows(all_items, positives), _rows(all_items, negatives)
        bpr = bpr_loss(_rows(all_users, users), chosen, others, epsilon=RELEASED_EPSILON)
        terms = []
        for _ in range(2 if self.options.tasks == "ED" else 1):
            copy_users, copy_items = self.fusion(self.subgraphs.keep(self.draw_edges()))
            anchors = F.normalize(_rows(copy_users, users), dim=1) / self.options.ssl_temperature
            terms.append(in_batch_loss(anchors, F.normalize(_rows(copy_items, positives), dim=1)))
        return bpr, terms[0], terms[-1]

    def _info_nce(self, users: Tensor, items: Tensor, lacks: Tensor) -> Tensor:
        """InfoNCE of a copy from `rows` whose block 0 is the view of CN; `lacks` (b,): no such negative."""
        anchors = F.normalize(self._user(users), dim=1) / self.options.ssl_temperature
        positives, negatives = items.chunk(2)
        hard = None
        if self.options.tasks == "ED+MM+CN":
            mixed = torch.cat([negatives[:, :1], positives[:, 1:]], dim=1)
            hard = (anchors * F.normalize(self._item(mixed), dim=1)).sum(dim=1).masked_fill(lacks, -torch.inf)
        return in_batch_loss(anchors, F.normalize(self._item(positives), dim=1), hard)

    def _user(self, blocks: Tensor) -> Tensor:  # (b, blocks, dim) -> (b, dim)
        return blocks.sum(dim=1) + self.fusion.read_user.bias

    def _item(self, blocks: Tensor) -> Tensor:
        return blocks.sum(dim=1) + self.fusion.read_item.bias

    def draw_view(self) -> int:
        """The view of MM and CN in this step."""
        return int(torch.multinomial(self.view_chances, 1))

    def draw_edges(self) -> Tensor:
        """Training pairs that a copy keeps, (n,) bool: exactly int((1 - dropout) n) of them."""
        return self._draw(len(self.subgraphs))

    def draw_nodes(self) -> Tensor:
        """Training pairs whose user and item are kept, (n,) bool."""
        users, items = self._draw(self.n_users), self._draw(self.n_items)
        return users[self.subgraphs.user_idx] & items[self.subgraphs.item_idx]

    def _draw(self, n: int) -> Tensor:
        device = self.view_chances.device
        mask = torch.zeros(n, dtype=torch.bool, device=device)
        mask[torch.randperm(n, device=device)[: int((1 - self.options.dropout) * n)]] = True
        return mask

    def forward(self) -> tuple[Tensor, Tensor]:
        if self.snapshot is not None and self.snapshot.taken:
            return self.snapshot.users, self.snapshot.items
        return self.fusion(self.graph)


def _rows(table: Tensor, idx: Tensor) -> Tensor:
    """table[idx] of an (n, ..) table, with a quicker gradient."""
    return F.embedding(idx, table.flatten(1)).unflatten(1, table.shape[1:])
