"""An evaluation broken down by the activity of users, and by groups of the items that they held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bootstrap import Estimate, estimate, mean_over_users
from .metrics import ACCURACY, popularity_bins

ACTIVITY = ("low", "mid", "high")
POPULARITY = ("head", "mid", "tail", "cold")  # as numbered by `metrics.popularity_bins`


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of an evaluation that concerns some users, or some of their positives."""

    users: int
    positives: int
    metrics: dict[str, Estimate]

    def as_json(self) -> dict[str, Any]:
        values = {name: value.as_json() for name, value in self.metrics.items()}
        return {"users": self.users, "positives": self.positives, "metrics": values}


@dataclass(frozen=True, slots=True, eq=False)
class ItemGroups:
    """A partition of the catalogue that recall is broken down by."""

    names: Sequence[str]
    of_item: np.ndarray  # (I,) int64: a position in `names`


def popularity_groups(popularity: np.ndarray) -> ItemGroups:
    """ "head (40-90)", "mid (13-39)", "tail (1-12)" and "cold (0)" by train interactions, (I,)."""
    bins = popularity_bins(popularity)
    names = [
        f"{name} ({_span(popularity[bins == position])})" if (bins == position).any() else name
        for position, name in enumerate(POPULARITY)
    ]
    return ItemGroups(names, bins)


def by_activity(
    per_user: Mapping[str, np.ndarray],
    activity: np.ndarray,
    n_positives: np.ndarray,
    resamples: int,
    seed: int,
) -> dict[str, Segment]:
    """ "low (3-4)" -> accuracy of the users with 3 to 4 train interactions, and so on.

    Thirds of the evaluated users by their number of train interactions, `activity` (n,); users with
    equally many are never parted, so a third may be larger, or absent.
    """
    edges = np.quantile(activity, (1 / 3, 2 / 3), method="inverted_cdf")
    third = np.searchsorted(edges, activity)  # (n,) 0, 1, 2: at most the first edge, the second, above
    segments = {}
    for position, name in enumerate(ACTIVITY):
        members = third == position
        if not members.any():
            continue
        chosen = {key: values[members] for key, values in per_user.items() if key.split("@")[0] in ACCURACY}
        segments[f"{name} ({_span(activity[members])})"] = Segment(
            int(members.sum()), int(n_positives[members].sum()), _estimates(chosen, resamples, seed)
        )
    return segments


def by_group(
    recall: Mapping[str, np.ndarray],
    positives_in_group: np.ndarray,
    names: Sequence[str],
    resamples: int,
    seed: int,
) -> dict[str, Segment]:
    """ "tail (1-12)" -> recall on the positives in that group of items, and so on.

    `recall` holds "recall@k" -> (n, groups), `positives_in_group` is (n, groups). A user's positives in a
    group are the denominator; users without any are left out, as are groups that nobody has a positive in.
    """
    segments = {}
    for position, name in enumerate(names):
        members = positives_in_group[:, position] > 0
        if not members.any():
            continue
        chosen = {key: values[members, position] for key, values in recall.items()}
        segments[name] = Segment(
            int(members.sum()),
            int(positives_in_group[:, position].sum()),
            _estimates(chosen, resamples, seed),
        )
    return segments


def _span(counts: np.ndarray) -> str:
    low, high = counts.min(), counts.max()
    return f"{low}" if low == high else f"{low}-{high}"


def _estimates(per_user: Mapping[str, np.ndarray], resamples: int, seed: int) -> dict[str, Estimate]:
    return estimate({name: mean_over_users(values) for name, values in per_user.items()}, resamples, seed)
