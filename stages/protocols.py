"""What judging features consists of: rankings by them, a lost modality, and the geometry of every view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..features.errors import InputError
from ..features.store import FeatureStore
from ..recsys.bootstrap import estimate, mean_over_users
from ..recsys.config import EvaluateConfig, MaskConfig
from ..recsys.evaluation import Search, accuracy, hold_out
from ..recsys.feature_geometry import (
    agreement,
    chance_agreement,
    effective_rank,
    hubness,
    mean_cosine,
    occurrences,
)
from ..recsys.feature_search import (
    ItemView,
    Neighbours,
    item_cf,
    latest,
    nearest_by_views,
    zero_shot,
    zero_shot_max,
)
from ..recsys.holdout import Holdout
from ..recsys.interactions import Dataset
from ..recsys.pairs import Pairs
from .masking import check_mask, masked_items, modality_of, read_view, replacement
from .progress import progress_bar

JOINED = "all views"  # the set of all judged views, where there are several


class FeatureJudge:
    """The held-out users, and what every protocol is asked of."""

    def __init__(
        self, dataset: Dataset, store: FeatureStore, config: EvaluateConfig, views: list[str]
    ) -> None:
        self.dataset, self.store, self.config, self.views = dataset, store, config, views
        self.asked = config.features
        train = dataset.splits["train"]
        self.history = train.csr(dataset.n_users, dataset.n_items)
        self.late = None
        if dataset.train_times is not None:
            late = latest(train, dataset.train_times, self.asked.last)
            self.late = late.csr(dataset.n_users, dataset.n_items)
        self.holdout = self._holdout(train)

    def _holdout(self, train: Pairs) -> Holdout:
        dataset, name = self.dataset, self.asked.split
        pairs = dataset.splits.get(name)
        if pairs is None or not len(pairs):
            raise InputError(
                f"evaluate.features.split = '{name}': there is no such split; "
                f"found {', '.join(split for split, found in dataset.splits.items() if len(found))}"
            )
        users = dataset.evaluable_users(name)
        if len(users) > self.asked.users:
            rng = np.random.default_rng(self.config.seed)
            users = np.sort(rng.choice(users, self.asked.users, replace=False))
        kept = np.isin(pairs.user_idx, users)
        positives = Pairs(pairs.user_idx[kept], pairs.item_idx[kept])
        masks_validation = self.config.mask == "train+validation" and name.startswith("test")
        seen = dataset.splits["validation"] if masks_validation else None
        return hold_out(positives, train, dataset.n_users, dataset.n_items, seen)

    def facts(self) -> dict[str, Any]:
        """The content of features.json, but for its provenance."""
        alone = {view: self._view(view) for view in self.views}
        sets = {view: [view] for view in self.views}
        if len(self.views) > 1:
            sets[JOINED] = self.views
        modalities = self._modalities()
        for modality in modalities:
            check_mask(self.store, self._mask(modality), self.views)
        facts: dict[str, Any] = {
            "split": self.asked.split,
            "users": self.holdout.n_users,
            "items": self.dataset.n_items,
            "chance": {f"recall@{k}": self._chance(k) for k in self.asked.k},
        }
        with progress_bar("judge features", len(sets) + len(modalities)) as advance:
            neighbours, judged = {}, {}
            for name, members in sets.items():
                vectors = [alone[member] for member in members]
                neighbours[name] = self._neighbours(vectors)
                judged[name] = self._accuracies(self._searches(vectors, neighbours[name]))
                advance()
            facts["sets"] = {
                name: {"views": sets[name], "protocols": self._estimates(per_user)}
                for name, per_user in judged.items()
            }
            facts["views"] = {view: self._geometry(alone[view], neighbours[view]) for view in self.views}
            facts["agreement"] = self._agreements(neighbours)
            facts["masked"] = []
            last = list(sets)[-1]  # all views, or the only one
            for modality in modalities:
                facts["masked"].append(self._masked(modality, alone, judged[last]))
                advance()
        return facts

    def _view(self, view: str, mask: MaskConfig | None = None, masked: np.ndarray | None = None) -> ItemView:
        return ItemView.of(*read_view(self.store, view, self.dataset.item_ids, mask, masked))

    def _modalities(self) -> list[str]:
        """What can be taken from the judged views, by name, in their order."""
        if not self.asked.mask_share:
            return []
        possible = [*map(modality_of, self.store.views), *self.asked.mask_replace]
        names = dict.fromkeys(possible)
        several = {view for view in self.views if any(self._replaced(view, name) for name in names)}
        own = {modality_of(view) for view in self.views if view not in several}
        return [n for n in names if n in own or any(self._replaced(view, n) for view in several)]

    def _mask(self, modality: str) -> MaskConfig:
        return MaskConfig(
            modality=modality,
            share=self.asked.mask_share,
            rows=self.asked.mask_rows,
            replace=self.asked.mask_replace.get(modality, {}),
            seed=self.config.seed,
        )

    def _replaced(self, view: str, modality: str) -> str | None:
        return replacement(self.store, view, self._mask(modality))

    def _neighbours(self, views: Sequence[ItemView]) -> Neighbours:
        """The nearest items, as many as any protocol wants."""
        k = max((*self.asked.neighbours, self.asked.occurrences))
        return nearest_by_views(views, k, self.config.memory_mb)

    def _searches(self, views: Sequence[ItemView], neighbours: Neighbours) -> dict[str, Search]:
        memory_mb = self.config.memory_mb
        searches = {
            "zero-shot": zero_shot(views, self.history, memory_mb),
            "zero-shot-max": zero_shot_max(views, self.history, memory_mb),
        }
        if self.late is not None:
            searches["zero-shot-last"] = zero_shot(views, self.late, memory_mb)
        for k in self.asked.neighbours:
            found, cosines = (part[:, :k] for part in neighbours)
            searches[f"item-cf-{k}"] = item_cf((found, cosines), self.history)
        return searches

    def _accuracies(self, searches: Mapping[str, Search]) -> dict[str, dict[str, np.ndarray]]:
        """Protocol -> "recall@20" -> (n,) per user."""
        wanted = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in self.asked.k]
        return {
            name: {metric: found[metric] for metric in wanted}
            for name, found in (
                (name, accuracy(search, self.holdout, self.asked.k)) for name, search in searches.items()
            )
        }

    def _estimates(self, per_user: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Means with intervals, the same resamples of users for all."""
        values = {(p, m): mean_over_users(v) for p, found in per_user.items() for m, v in found.items()}
        names = {f"{protocol}/{metric}": ratio for (protocol, metric), ratio in values.items()}
        found = estimate(names, self.config.bootstrap, self.config.seed)
        return {
            protocol: {metric: found[f"{protocol}/{metric}"].as_json() for metric in metrics}
            for protocol, metrics in per_user.items()
        }

    def _chance(self, k: int) -> float:
        """Recall of random lists: k of what is left beside a user's history."""
        left = self.dataset.n_items - np.diff(self.holdout.exclude.indptr)
        return float(np.minimum(k / np.maximum(left, 1), 1).mean())

    def _geometry(self, view: ItemView, neighbours: Neighbours) -> dict[str, Any]:
        lists = neighbours[0][:, : self.asked.occurrences]
        counts = occurrences(lists)[view.present]
        figures = {
            "effective_rank": effective_rank(view),
            "mean_cosine": mean_cosine(view),
            "hubness": hubness(lists),
            "never_a_neighbour": float((counts == 0).mean()) if len(counts) else float("nan"),
        }
        return {
            "dim": view.rows.shape[1],
            "present": int(view.present.sum()),
            **{name: value if np.isfinite(value) else None for name, value in figures.items()},
            "most_occurrences": int(counts.max(initial=0)),
        }

    def _agreements(self, neighbours: Mapping[str, Neighbours]) -> list[dict[str, Any]]:
        """Of every two views: the share of neighbours in common, and what chance gives."""
        k, found = self.asked.occurrences, []
        for position, first in enumerate(self.views):
            for second in self.views[position + 1 :]:
                lists = [neighbours[view][0][:, :k] for view in (first, second)]
                share, items = agreement(*lists)
                chance = chance_agreement(*lists)
                entry = {"views": [first, second], "items": items, "chance": chance if items else None}
                found.append(entry | {"overlap": share if items else None})
        return found

    def _masked(
        self,
        modality: str,
        alone: Mapping[str, ItemView],
        before: Mapping[str, Mapping[str, np.ndarray]],
    ) -> dict[str, Any]:
        """All protocols after some items have lost `modality`, and by how much less they reach, per user."""
        mask = self._mask(modality)
        lost = masked_items(self.dataset.item_ids, mask)
        views = [
            self._view(view, mask, lost)
            if modality_of(view) == modality or self._replaced(view, modality) is not None
            else alone[view]
            for view in self.views
        ]
        after = self._accuracies(self._searches(views, self._neighbours(views)))
        drop = {
            protocol: {metric: before[protocol][metric] - value for metric, value in found.items()}
            for protocol, found in after.items()
        }
        return {
            "modality": modality,
            "items": int(lost.sum()),
            "rows": mask.rows,
            "protocols": self._estimates(after),
            "drop": self._estimates(drop),
        }
