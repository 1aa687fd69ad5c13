"""Retrieval measured on held-out interactions: per user, over all users, and by segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import metrics
from .bootstrap import Estimate, estimate, mean_over_users
from .config import EvaluateConfig
from .errors import InputError
from .holdout import Holdout, hold_out
from .pairs import Pairs
from .ranking import Csr, Ranked, rank_exact
from .segments import POPULARITY, ItemGroups, Segment, by_activity, by_group, popularity_groups

BLOCK = 4096  # users whose lists are in memory at a time

# (user_idx (n,), k, items that may not appear (n, I) CSR, candidates (I,) bool or None) -> lists (n, k)
Search = Callable[[np.ndarray, int, Csr, np.ndarray | None], Ranked]


def exact_search(
    users: np.ndarray | Csr, items: np.ndarray, memory_mb: int = 512, device: str = "auto"
) -> Search:
    """Search by exact inner product over all user and item vectors."""

    def search(user_idx: np.ndarray, k: int, exclude: Csr, candidates: np.ndarray | None) -> Ranked:
        return rank_exact(users[user_idx], items, k, exclude, candidates, memory_mb, device)

    return search


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All metrics of one split; `per_user` values are aligned with `user_idx`."""

    user_idx: np.ndarray  # (n,) int64
    per_user: dict[str, np.ndarray]  # "recall@20" -> (n,) float64; NaN where a user has no such value
    metrics: dict[str, Estimate]  # empty when no user can be evaluated
    segments: dict[str, dict[str, Segment]]  # "activity", "popularity", ... -> name with range -> segment
    positives: int
    skipped_users: int
    candidates: int

    @property
    def users(self) -> int:
        return len(self.user_idx)

    def split_json(self) -> dict[str, Any]:
        """The entry of this split in `evaluation.json`."""
        return {
            "users": self.users,
            "skipped_users": self.skipped_users,
            "positives": self.positives,
            "candidates": self.candidates,
            "metrics": {name: value.as_json() for name, value in self.metrics.items()},
        }

    def segments_json(self) -> dict[str, Any]:
        """The entry of this split under "segments" in `evaluation.json`."""
        return {
            kind: {name: segment.as_json() for name, segment in parts.items()}
            for kind, parts in self.segments.items()
        }


def mean_accuracy(
    search: Search, holdout: Holdout, ks: Sequence[int], block: int = BLOCK
) -> dict[str, float]:
    """ "recall@20" -> mean over users, of the six accuracy metrics: all that choosing an epoch needs.

    Raises InputError for a split without evaluable users.
    """
    if holdout.n_users == 0:
        raise InputError(
            "no user has both train and held-out interactions, so there is nothing to validate on"
        )
    values = accuracy(search, holdout, ks, block)
    return {name: float(value.mean()) for name, value in values.items()}


def accuracy(
    search: Search, holdout: Holdout, ks: Sequence[int], block: int = BLOCK
) -> dict[str, np.ndarray]:
    """ "recall@20" -> (n,) of the users of `holdout`, at least one, for the six accuracy metrics."""
    parts = []
    for rows, lists in _lists(search, holdout, max(ks), block):
        hits = metrics.find_hits(lists, holdout.user_idx[rows], holdout.positive_keys, holdout.n_items)
        parts.append(metrics.per_user(hits, holdout.n_positives[rows], ks))
    return _concatenate(parts)


def evaluate(
    search: Search,
    positives: Pairs,
    train: Pairs,
    n_users: int,
    n_items: int,
    config: EvaluateConfig,
    validation: Pairs | None = None,
    candidates: np.ndarray | None = None,
    features: Mapping[str, np.ndarray] | None = None,
    groups: Mapping[str, ItemGroups] | None = None,
    block: int = BLOCK,
) -> Evaluation:
    """Everything that is measured on one split.

    Lists never hold a train item; with `config.mask` = "train+validation", nor an item of `validation`.
    `candidates` (I,) bool are the items that compete (for a cold split: the withheld ones), and the
    catalogue of coverage and Gini; default all. `features` (I, d) by name add intra-list diversity
    ("ild.NAME@k"), `groups` of items by name segments beside "popularity". Metrics of the lists as a whole
    (coverage, gini, ...) have no interval: a resample of users repeats lists, so it has another coverage by
    construction. Raises InputError as `hold_out` does.
    """
    also_seen = validation if config.mask == "train+validation" else None
    holdout = hold_out(positives, train, n_users, n_items, also_seen, candidates)
    if holdout.n_users == 0:
        return _evaluation(holdout, {}, {}, {})
    groups = {"popularity": popularity_groups(holdout.popularity), **(groups or {})}
    measured = _measure(search, holdout, config.k, features or {}, groups, block)
    estimates = estimate(_ratios(measured.per_user, holdout, config.k), config.bootstrap, config.seed)
    estimates |= _of_exposure(measured.exposure, holdout)
    activity = np.diff(holdout.train.indptr)
    settings = config.bootstrap, config.seed
    segments = {"activity": by_activity(measured.per_user, activity, holdout.n_positives, *settings)}
    for kind, (recall, positives_in_group) in measured.by_group.items():
        segments[kind] = by_group(recall, positives_in_group, groups[kind].names, *settings)
    return _evaluation(holdout, measured.per_user, estimates, segments)


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    per_user: dict[str, np.ndarray]  # name@k -> (n,)
    exposure: dict[int, np.ndarray]  # k -> (I,) int64
    # kind of groups -> recall@k -> (n, groups), and positives (n, groups)
    by_group: dict[str, tuple[dict[str, np.ndarray], np.ndarray]]


def _measure(
    search: Search,
    holdout: Holdout,
    ks: Sequence[int],
    features: Mapping[str, np.ndarray],
    groups: Mapping[str, ItemGroups],
    block: int,
) -> _Measured:
    positives_in = {kind: _count_by_group(holdout, of_kind) for kind, of_kind in groups.items()}
    of_items = {
        "novelty": metrics.self_information(holdout.popularity, holdout.n_train_users),
        "epc": metrics.popularity_complement(holdout.popularity),
        "arp": holdout.popularity,
        "aplt": groups["popularity"].of_item >= POPULARITY.index("tail"),
    }
    exposure = {k: np.zeros(holdout.n_items, dtype=np.int64) for k in ks}
    per_user: list[dict[str, np.ndarray]] = []
    recall_in: dict[str, list[dict[str, np.ndarray]]] = {kind: [] for kind in groups}
    for rows, lists in _lists(search, holdout, max(ks), block):
        hits = metrics.find_hits(lists, holdout.user_idx[rows], holdout.positive_keys, holdout.n_items)
        values = metrics.per_user(hits, holdout.n_positives[rows], ks)
        for name, value in of_items.items():
            values |= _at(name, ks, metrics.list_means(value, lists, ks))
        for name, vectors in features.items():
            values |= _at(f"ild.{name}", ks, metrics.intra_list_diversity(lists, vectors, ks))
        per_user.append(values)
        for kind, of_kind in groups.items():
            recall_in[kind].append(_recall_by_group(hits, lists, of_kind, positives_in[kind][rows], ks))
        for k in ks:
            exposure[k] += metrics.exposure(lists[:, :k], holdout.n_items)
    by_kind = {kind: (_concatenate(recall_in[kind]), positives_in[kind]) for kind in groups}
    return _Measured(_concatenate(per_user), exposure, by_kind)


def _lists(search: Search, holdout: Holdout, k: int, block: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows of the holdout, their lists (b, k)) in blocks of users."""
    for start in range(0, holdout.n_users, block):
        rows = slice(start, min(start + block, holdout.n_users))
        yield rows, search(holdout.user_idx[rows], k, holdout.exclude[rows], holdout.candidates).items


def _count_by_group(holdout: Holdout, groups: ItemGroups) -> np.ndarray:
    """(n, groups) positives of every user by the group of the item."""
    users = np.searchsorted(holdout.user_idx, holdout.positive_keys // holdout.n_items)
    width = len(groups.names)
    cells = users * width + groups.of_item[holdout.positive_keys % holdout.n_items]
    return np.bincount(cells, minlength=holdout.n_users * width).reshape(-1, width)


def _recall_by_group(
    hits: np.ndarray, lists: np.ndarray, groups: ItemGroups, positives: np.ndarray, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """recall@k -> (n, groups): hits in the group over positives (n, groups) in it; NaN without any."""
    of_list = groups.of_item[lists][:, :, None] == np.arange(len(groups.names))
    found = (hits[:, :, None] & of_list).cumsum(axis=1)  # (n, K, groups)
    denominator = np.where(positives > 0, positives, np.nan)
    return {f"recall@{k}": found[:, k - 1] / denominator for k in ks}


def _ratios(
    per_user: Mapping[str, np.ndarray], holdout: Holdout, ks: Sequence[int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What is averaged over users, as numerators and denominators, with two ratios of sums.

    recall_pooled: all hits over all positives. popularity_lift: (ARP - profile) / profile, where a user's
    profile is the mean popularity of the own train items; above 0, popularity is amplified.
    """
    ratios = {name: mean_over_users(values) for name, values in per_user.items()}
    profile = holdout.train @ holdout.popularity / np.diff(holdout.train.indptr)
    positives = holdout.n_positives.astype(np.float64)
    for k in ks:
        ratios[f"recall_pooled@{k}"] = per_user[f"recall@{k}"] * positives, positives
        lift, listed = mean_over_users(per_user[f"arp@{k}"] - profile)
        ratios[f"popularity_lift@{k}"] = lift, profile * listed
    return ratios


def _of_exposure(exposure: Mapping[int, np.ndarray], holdout: Holdout) -> dict[str, Estimate]:
    """Metrics of all lists together; the catalogue is the candidates, by default all items."""
    values = {}
    for k, counts in exposure.items():
        shown = counts if holdout.candidates is None else counts[holdout.candidates]
        values[f"coverage@{k}"] = metrics.coverage(shown)
        values[f"gini@{k}"] = metrics.gini(shown)
        values[f"entropy@{k}"] = metrics.normalised_entropy(shown)
        values[f"inter_user_diversity@{k}"] = metrics.inter_user_diversity(shown, holdout.n_users, k)
    return {name: Estimate(value) for name, value in values.items()}


def _evaluation(
    holdout: Holdout,
    per_user: dict[str, np.ndarray],
    estimates: dict[str, Estimate],
    segments: dict[str, dict[str, Segment]],
) -> Evaluation:
    return Evaluation(
        user_idx=holdout.user_idx,
        per_user=per_user,
        metrics=estimates,
        segments=segments,
        positives=len(holdout.positive_keys),
        skipped_users=holdout.skipped_users,
        candidates=holdout.n_items if holdout.candidates is None else int(holdout.candidates.sum()),
    )


def _at(name: str, ks: Sequence[int], values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}@{k}": value for k, value in zip(ks, values, strict=True)}


def _concatenate(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
