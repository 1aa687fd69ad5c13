"""Retrieval metrics of ranked lists, in float64; every definition is written at its function.

`lists` are (n, K) item_idx, best first, padded with -1. Accuracy follows the protocol that MMRec and RecBole
share: binary relevance, recall over all positives of a user, the ideal of NDCG and the denominator of MAP cut
at min(positives, k). Values that a user does not have (the mean over an empty list) are NaN and are left out
of every average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ACCURACY = ("recall", "ndcg", "precision", "map", "mrr", "hit")


def find_hits(lists: np.ndarray, user_idx: np.ndarray, positive_keys: np.ndarray, n_items: int) -> np.ndarray:
    """(n, K) bool: places that hold a positive; `positive_keys`: user_idx * n_items + item_idx, sorted."""
    if len(positive_keys) == 0:
        return np.zeros(lists.shape, dtype=bool)
    keys = user_idx.astype(np.int64)[:, None] * n_items + lists
    place = np.searchsorted(positive_keys, keys).clip(max=len(positive_keys) - 1)
    return (positive_keys[place] == keys) & (lists >= 0)


def per_user(hits: np.ndarray, n_positives: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """ "recall@5" -> (n,), for the six accuracy metrics at every k; hits (n, K) bool with K >= max(ks).

    With h_r the hit at rank r, H the hits up to k and m >= 1 the user's positives: recall H / m; precision
    H / k, also for shorter lists; hit 1[H > 0]; mrr 1 / rank of the first hit; ndcg sum h_r / log2(r + 1)
    over the same sum of a list that starts with min(m, k) positives; map sum h_r (hits up to r) / r over
    min(m, k).
    """
    ranks = np.arange(1, hits.shape[1] + 1)
    found = hits.cumsum(axis=1)  # (n, K)
    discount = 1 / np.log2(ranks + 1)
    ideal = discount.cumsum()
    gain = (hits * discount).cumsum(axis=1)
    average_precision = (hits * (found / ranks)).cumsum(axis=1)
    reciprocal = np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)
    values: dict[str, np.ndarray] = {}
    for k in ks:
        total = found[:, k - 1]
        possible = np.minimum(n_positives, k)
        values[f"recall@{k}"] = total / n_positives
        values[f"ndcg@{k}"] = gain[:, k - 1] / ideal[possible - 1]
        values[f"precision@{k}"] = total / k
        values[f"map@{k}"] = average_precision[:, k - 1] / possible
        values[f"mrr@{k}"] = np.where(total > 0, reciprocal, 0.0)
        values[f"hit@{k}"] = (total > 0).astype(np.float64)
    return values


def list_means(values: np.ndarray, lists: np.ndarray, ks: Sequence[int]) -> list[np.ndarray]:
    """Per k, the (n,) mean of the items' `values` (I,) over the first k places; NaN for an empty list."""
    present = lists >= 0
    totals = np.where(present, values[lists], 0.0).cumsum(axis=1)
    lengths = present.cumsum(axis=1)
    with np.errstate(invalid="ignore"):
        return [totals[:, k - 1] / lengths[:, k - 1] for k in ks]


def self_information(popularity: np.ndarray, n_users: int, smoothing: float = 1.0) -> np.ndarray:
    """(I,) bits: -log2((pop + s) / (U + s)), pop the train interactions of an item and U the train users.

    Its mean over a list is the list's novelty; s = 1 keeps it finite for items without an interaction.
    """
    return -np.log2((popularity + smoothing) / (n_users + smoothing))


def popularity_complement(popularity: np.ndarray) -> np.ndarray:
    """(I,) 1 - pop / max pop; its mean over a list is the expected popularity complement (EPC)."""
    return 1 - popularity / max(popularity.max(initial=0), 1)


def popularity_bins(popularity: np.ndarray, head: float = 0.2, tail: float = 0.8) -> np.ndarray:
    """(I,) 0 head, 1 mid, 2 tail, 3 cold, by the share of interactions that more popular items cover.

    An item is in the head while all items more popular than it cover less than `head` of the train
    interactions, in the middle below `tail`, else in the tail; cold items have no interaction. Equally
    popular items share a bin.
    """
    counts, inverse = np.unique(popularity, return_inverse=True)
    weight = np.bincount(inverse) * counts  # interactions of all items of that popularity
    covered = (weight.sum() - weight.cumsum()) / max(weight.sum(), 1)  # by more popular ones
    bins = np.where(covered < head, 0, np.where(covered < tail, 1, 2))
    return np.where(counts == 0, 3, bins)[inverse]


def exposure(lists: np.ndarray, n_items: int) -> np.ndarray:
    """(I,) int64: how many lists hold each item."""
    return np.bincount(lists[lists >= 0], minlength=n_items)


def coverage(counts: np.ndarray) -> float:
    """Share of the catalogue (all items of `counts`) that is in at least one list."""
    return float(np.count_nonzero(counts) / len(counts))


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of exposure over the whole catalogue: 0 equal, (n - 1) / n one item for everybody."""
    n, total = len(counts), counts.sum()
    if total == 0:
        return float("nan")
    return float(((2 * np.arange(1, n + 1) - n - 1) * np.sort(counts)).sum() / (n * total))


def normalised_entropy(counts: np.ndarray) -> float:
    """-sum q log q / log n of the exposure shares q: 1 equal, 0 one item for everybody; NaN for n = 1."""
    if len(counts) < 2 or counts.sum() == 0:
        return float("nan")
    share = counts[counts > 0] / counts.sum()
    return float(abs((share * np.log(share)).sum()) / np.log(len(counts)))


def inter_user_diversity(counts: np.ndarray, n_users: int, k: int) -> float:
    """1 - the mean of |L_u and L_v| / k over all pairs of users; NaN for a single user.

    An item in c lists is shared by c (c - 1) / 2 pairs, so the counts are enough.
    """
    if n_users < 2:
        return float("nan")
    shared = (counts * (counts - 1)).sum() / (n_users * (n_users - 1))
    return float(1 - shared / k)


def intra_list_diversity(lists: np.ndarray, features: np.ndarray, ks: Sequence[int]) -> list[np.ndarray]:
    """Per k, the (n,) mean of 1 - cos over the pairs of a list (ILD); features (I, d).

    An item whose features are zero is at distance 1 from every other. NaN for lists of fewer than two items.
    """
    norm = np.append(np.linalg.norm(features, axis=1).astype(np.float64), 0)  # the last: padding, item_idx -1
    scale = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
    sums = np.zeros((len(lists), features.shape[1]))
    values = {}
    for rank in range(max(ks)):  # never all vectors of all lists at once
        sums += features[lists[:, rank]] * scale[lists[:, rank], None]
        if (k := rank + 1) in ks:
            top = lists[:, :k]
            pairs = (sums**2).sum(axis=1) - (scale[top] > 0).sum(axis=1)  # twice the sum of the cosines
            length = (top >= 0).sum(axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                values[k] = np.where(length > 1, 1 - pairs / (length * (length - 1)), np.nan)
    return [values[k] for k in ks]
