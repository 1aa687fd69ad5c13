"""Vectors of users who were not trained, from the items that they had and the vectors of trained users."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from .ranking import Csr

RIDGE = 1e-3  # of the mean square of the histories' means


class FoldIn:
    """The linear map from the mean item vector of a history to the user's vector, as the model's own users
    have it: W = argmin sum_u |W [m_u, 1] - x_u|^2 + a |W|^2, m_u the mean of u's item vectors.

    Every trained user counts once, however long the history. A column that is the same for all trained users
    (a bias) is the same for the new ones.
    """

    def __init__(self, items: np.ndarray) -> None:
        dim = items.shape[1]
        self._items = items
        self._gram, self._target = np.zeros((dim + 1, dim + 1)), np.zeros((dim + 1, dim))
        self.users = 0  # that were learned from

    def learn(self, users: np.ndarray, histories: Csr) -> None:
        """Take trained users (n, d) and their histories (n, I) into account; an empty one says nothing."""
        known = np.diff(histories.indptr) > 0
        inputs = self._inputs(histories[known])
        self._gram += inputs.T @ inputs
        self._target += inputs.T @ users[known].astype(np.float64)
        self.users += int(known.sum())

    def vectors(self, histories: Csr) -> np.ndarray:
        """(n, d) float32 of new users with these histories (n, I)."""
        ridge = RIDGE * np.trace(self._gram[:-1, :-1]) / max(len(self._gram) - 1, 1)
        penalty = np.full(len(self._gram), max(ridge, np.finfo(np.float64).tiny))
        penalty[-1] = 0
        weights = np.linalg.lstsq(self._gram + np.diag(penalty), self._target, rcond=None)[0]  # (d + 1, d)
        return (self._inputs(histories) @ weights).astype(np.float32)

    def _inputs(self, histories: Csr) -> np.ndarray:
        """(n, d + 1) float64: the mean item vector of every history, and 1."""
        ones = sparse.csr_matrix(
            (np.ones(len(histories.indices)), histories.indices, histories.indptr), shape=histories.shape
        )
        means = (ones @ self._items) / np.maximum(np.diff(histories.indptr), 1)[:, None]
        return np.concatenate([means, np.ones((len(means), 1))], axis=1)
