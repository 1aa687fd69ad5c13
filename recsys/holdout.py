"""The evaluable part of a split: which users, their positives, and what their lists may not hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .errors import InputError
from .pairs import Pairs
from .ranking import Csr


@dataclass(frozen=True, slots=True, eq=False)
class Holdout:
    """What a split asks of a search: the users to evaluate, their positives, and what they have seen."""

    user_idx: np.ndarray  # (n,) int64, ascending: users with a positive and a train interaction
    positive_keys: np.ndarray  # (p,) int64, ascending: user_idx * n_items + item_idx
    n_positives: np.ndarray  # (n,) int64, at least 1
    exclude: Csr  # (n, n_items): items that may not be listed
    train: Csr  # (n, n_items): the train interactions
    popularity: np.ndarray  # (n_items,) int64, train interactions of all users
    n_train_users: int
    skipped_users: int  # users with a positive but no train interaction
    candidates: np.ndarray | None  # (n_items,) bool: the items that compete; None: all

    @property
    def n_users(self) -> int:
        """Evaluated users."""
        return len(self.user_idx)

    @property
    def n_items(self) -> int:
        return len(self.popularity)


def hold_out(
    positives: Pairs,
    train: Pairs,
    n_users: int,
    n_items: int,
    also_seen: Pairs | None = None,
    candidates: np.ndarray | None = None,
) -> Holdout:
    """The evaluable part of a split: users with at least one positive and one train interaction.

    Lists may hold no item of `train` or `also_seen` (validation, when a test masks it). Raises InputError
    when a positive is among these, or is no candidate: no list could ever hold it.
    """
    train_matrix = train.csr(n_users, n_items)
    seen = train_matrix
    if also_seen is not None:
        seen = sparse.csr_matrix(train_matrix + also_seen.csr(n_users, n_items))
    activity = np.diff(train_matrix.indptr)
    keys = np.unique(positives.keys(n_items))
    kept = keys[activity[keys // n_items] > 0]
    user_idx, n_positives = np.unique(kept // n_items, return_counts=True)
    holdout = Holdout(
        user_idx=user_idx,
        positive_keys=kept,
        n_positives=n_positives,
        exclude=seen[user_idx],
        train=train_matrix[user_idx],
        popularity=np.bincount(train.item_idx, minlength=n_items),
        n_train_users=int((activity > 0).sum()),
        skipped_users=len(np.unique(keys // n_items)) - len(user_idx),
        candidates=candidates,
    )
    _check_reachable(holdout)
    return holdout


def _check_reachable(holdout: Holdout) -> None:
    users = np.searchsorted(holdout.user_idx, holdout.positive_keys // holdout.n_items)
    items = holdout.positive_keys % holdout.n_items
    wanted = sparse.csr_matrix((np.ones(len(items)), (users, items)), shape=holdout.exclude.shape)
    masked = wanted.multiply(holdout.exclude).nnz
    if masked > 0:
        raise InputError(
            f"{masked} of {len(items)} held-out interactions are also among those that lists may not repeat, "
            "so they could never be found: make the splits disjoint"
        )
    if holdout.candidates is not None and not holdout.candidates[items].all():
        missing = np.unique(items[~holdout.candidates[items]])
        raise InputError(
            f"{len(missing)} held-out items are no candidates (first: item_idx {missing[0]}), so they "
            "could never be found: evaluate them on the full catalogue"
        )
