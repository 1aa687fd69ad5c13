"""Which split each interaction belongs to: per-user ratio, global time, leave-one-out, or a given column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from .config import InteractionsConfig
from .errors import InputError
from .pairs import Pairs

SPLITS = ("train", "validation", "test")
COLD_SPLITS = ("validation_cold", "test_cold")
TRAIN, VALIDATION, TEST = range(3)  # labels: positions in SPLITS


def split_labels(
    user_idx: np.ndarray, times: np.ndarray | None, config: InteractionsConfig, rng: np.random.Generator
) -> np.ndarray:
    """Position in `SPLITS` of every interaction, (n,) int8; `user_idx` is sorted.

    `ratio` and `leave-one-out` go by each user's time; ties and logs without times by `rng`. `temporal`
    raises InputError without times, or when the oldest instant leaves nothing to train on.
    """
    if config.split == "temporal":
        return _temporal_labels(times, config.ratios)
    sizes = np.bincount(user_idx)
    if config.split == "leave-one-out":
        n_test, n_validation = (sizes >= 2).astype(np.int64), (sizes >= 3).astype(np.int64)
    else:
        _, validation_share, test_share = config.ratios
        n_test = np.minimum((sizes * test_share + 0.5).astype(np.int64), np.maximum(sizes - 1, 0))
        n_validation = (sizes * validation_share + 0.5).astype(np.int64)
        n_validation = np.minimum(n_validation, np.maximum(sizes - 1 - n_test, 0))  # one row stays in train
    from_end = sizes[user_idx] - 1 - _age_rank(user_idx, sizes, times, rng)  # 0: the user's newest
    labels = np.zeros(len(user_idx), dtype=np.int8)
    labels[from_end < (n_test + n_validation)[user_idx]] = VALIDATION
    labels[from_end < n_test[user_idx]] = TEST
    return labels


def _age_rank(
    user_idx: np.ndarray, sizes: np.ndarray, times: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Place of every interaction in its user's history, 0 = oldest; equal times in random order."""
    ties = rng.random(len(user_idx))
    order = np.lexsort((ties, user_idx) if times is None else (ties, times, user_idx))
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(user_idx), dtype=np.int64)
    rank[order] = np.arange(len(user_idx)) - starts[user_idx[order]]
    return rank


def _temporal_labels(times: np.ndarray | None, ratios: tuple[float, float, float]) -> np.ndarray:
    """Two instants cut the log for all users alike; interactions of one instant stay together."""
    if times is None:
        raise InputError(
            "split = 'temporal' needs a timestamp column, and the log has none. Name it in "
            "interactions.timestamp, or use split = 'ratio' or 'leave-one-out'."
        )
    ordered, n = np.sort(times), len(times)
    labels = np.zeros(n, dtype=np.int8)
    for label, share in ((VALIDATION, ratios[0]), (TEST, ratios[0] + ratios[1])):
        cut = int(n * share + 0.5)
        if cut < n:
            labels[times >= ordered[cut]] = label
    if not (labels == TRAIN).any():
        raise InputError(
            f"split = 'temporal' leaves no training interaction: {int((times == ordered[0]).sum())} of {n} "
            "share the oldest timestamp. Use split = 'ratio' or 'leave-one-out'."
        )
    return labels


def choose_cold_items(items: np.ndarray, share: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Two disjoint random sets of `items`, `share` of them together: for validation_cold and test_cold."""
    n_cold = int(len(items) * share + 0.5)
    if n_cold < 2 or n_cold >= len(items):
        raise InputError(
            f"cold_items = {share} withholds {n_cold} of {len(items)} items with interactions; at least 2 "
            "are needed (validation and test) and one must stay. Change the share, or set it to 0."
        )
    chosen = rng.permutation(items)[:n_cold]
    return [np.sort(chosen[: n_cold // 2]), np.sort(chosen[n_cold // 2 :])]


def check_no_leak(
    splits: Mapping[str, Pairs], user_ids: Sequence[Any] | pl.Series, item_ids: Sequence[Any] | pl.Series
) -> None:
    """Raise InputError, naming the splits and the first pairs, when a (user, item) pair is in two splits."""
    n_items = len(item_ids)
    keys = np.sort(np.concatenate([pairs.keys(n_items) for pairs in splits.values()]), kind="stable")
    if (keys[1:] != keys[:-1]).all():  # merging sorted runs: much faster than comparing two by two
        return
    for (first, a), (second, b) in combinations(splits.items(), 2):
        shared = np.intersect1d(a.keys(n_items), b.keys(n_items))
        if len(shared):
            first_keys = shared[:5].tolist()
            examples = ", ".join(f"({user_ids[k // n_items]}, {item_ids[k % n_items]})" for k in first_keys)
            raise InputError(
                f"{len(shared)} (user, item) pairs are both in '{first}' and in '{second}' "
                f"(first: {examples}). Remove them from one of the two."
            )
