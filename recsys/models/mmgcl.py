"""MMGCL (Yi et al., SIGIR 2022): LightGCN over views, trained on two perturbed copies of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor

from ..graph import BipartiteGraph
from ..losses import bpr_loss, l2_loss
from ..one_sided import Graph, Subgraphs
from .base import GradientModel, TrainingData
from .contrastive import in_batch_loss
from .distinct import Distinct, distinct
from .embeddings import require_modalities
from .freedom import view_weights
from .snapshot import Snapshot
from .view_fusion import ViewFusion

RELEASED_EPSILON = 1e-5  # inside the logarithm of the released BPR


class Batch(NamedTuple):
    users: Distinct
    positives: Distinct
    negatives: Tensor  # (b,)


class MMGCL(GradientModel):
    """score(u, i) of the joined views (`ViewFusion`); loss = BPR + ssl_weight * sum of two InfoNCE.

    InfoNCE sets a user against the items of the batch, in one perturbed copy. ED: all passes of the copy run
    on a graph without some edges. MM: one view, drawn per step, passes over a graph without some users and
    items, the others over the whole graph. CN: one more negative per pair, the item with that view of the
    negative item.

    Copies are ED and MM; without MM both are ED. A negative item that lacks the view adds no CN term.
    """

    rows_independent = False  # the contrast is within a batch

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
        batch = Batch(distinct(users), distinct(positives), negatives)
        bpr, first, second = (self._released_terms if self.snapshot else self._terms)(batch)
        loss = bpr + self.options.ssl_weight * (first + second)
        parts = {"bpr": bpr, "ssl": first + second}
        if self.snapshot is None:
            fusion = self.fusion
            parts["reg"] = l2_loss(fusion.user(users), fusion.item(positives), fusion.item(negatives))
            loss = loss + self.options.reg_weight * parts["reg"]
        return {"loss": loss, **parts}

    def _terms(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """BPR and the InfoNCE of both copies."""
        view = self.draw_view() + 1
        blocks = [[view], [other for other in range(self.fusion.n_views) if other != view]]
        inputs = self.fusion.inputs()

        def rows(graph: Graph, chosen: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
            """The batch's users, positives and negatives, each (n, blocks, dim)."""
            all_users = [self.fusion.users(graph, inputs, block) for block in chosen]
            all_items = [self.fusion.items(graph, inputs, block) for block in chosen]
            idx, n = torch.cat([batch.positives.rows, batch.negatives]), len(batch.positives.rows)
            items = torch.stack([F.embedding(idx, table) for table in all_items], dim=1)
            users = torch.stack([F.embedding(batch.users.rows, table) for table in all_users], dim=1)
            return users, items[:n], items[n:]

        users, positives, negatives = whole = rows(self.graph, blocks)
        bpr = self._bpr(batch, self._user(users), self._item(positives), self._item(negatives))
        lacks = ~self.fusion.projections[view - 1].present[batch.negatives]  # type: ignore[index, operator]
        first = rows(self.subgraphs.keep(self.draw_edges()), blocks)
        if self.options.tasks == "ED":
            second = rows(self.subgraphs.keep(self.draw_edges()), blocks)
        else:
            masked = rows(self.subgraphs.keep(self.draw_nodes()), blocks[:1])
            users, positives, negatives = (
                torch.cat([own, rest[:, 1:]], dim=1) for own, rest in zip(masked, whole, strict=True)
            )
            second = users, positives, negatives
        return bpr, self._info_nce(batch, *first, lacks), self._info_nce(batch, *second, lacks)

    def _info_nce(
        self, batch: Batch, users: Tensor, positives: Tensor, negatives: Tensor, lacks: Tensor
    ) -> Tensor:
        """InfoNCE of a copy from its `rows`; block 0 is the view of CN, `lacks` (b,) where there is none."""
        mixed = None
        if self.options.tasks == "ED+MM+CN":
            rest = _rows(positives[:, 1:], batch.positives.slots)
            mixed = self._item(torch.cat([negatives[:, :1], rest], dim=1))
        return self._contrast(batch, self._user(users), self._item(positives), mixed, lacks)

    def _contrast(
        self,
        batch: Batch,
        users: Tensor,
        positives: Tensor,
        mixed: Tensor | None = None,
        lacks: Tensor | None = None,
    ) -> Tensor:
        bound, hard = 1 / self.options.ssl_temperature, None
        anchors = F.normalize(users, dim=1) * bound
        if mixed is not None and lacks is not None:
            hard = (F.embedding(batch.users.slots, anchors) * F.normalize(mixed, dim=1)).sum(dim=1)
            hard = hard.masked_fill(lacks, -torch.inf)
        targets = F.normalize(positives, dim=1)
        return in_batch_loss(anchors, targets, batch.users, batch.positives, bound, hard)

    def _released_terms(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """BPR and twice the InfoNCE of one ED copy; of two where ED is the only task."""
        assert self.snapshot is not None
        all_users, all_items = self.fusion(self.graph)
        self.snapshot.take(all_users, all_items)
        users, positives = _rows(all_users, batch.users.rows), _rows(all_items, batch.positives.rows)
        bpr = self._bpr(batch, users, positives, _rows(all_items, batch.negatives), RELEASED_EPSILON)
        terms = []
        for _ in range(2 if self.options.tasks == "ED" else 1):
            all_users, all_items = self.fusion(self.subgraphs.keep(self.draw_edges()))
            users, positives = _rows(all_users, batch.users.rows), _rows(all_items, batch.positives.rows)
            terms.append(self._contrast(batch, users, positives))
        return bpr, terms[0], terms[-1]

    @staticmethod
    def _bpr(
        batch: Batch, users: Tensor, positives: Tensor, negatives: Tensor, epsilon: float = 0.0
    ) -> Tensor:
        chosen = F.embedding(batch.users.slots, users), F.embedding(batch.positives.slots, positives)
        return bpr_loss(*chosen, negatives, epsilon=epsilon)

    def _user(self, blocks: Tensor) -> Tensor:  # (n, blocks, dim) -> (n, dim)
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
