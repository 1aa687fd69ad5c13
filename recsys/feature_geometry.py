"""The shape of a cloud of item features: collapsed, dominated by hubs, or at odds with another view."""

from __future__ import annotations

import numpy as np

from .feature_search import ItemView

_BLOCK = 16_384  # items at a time
_PAIRS = 2**24  # of neighbours, compared at a time


def effective_rank(view: ItemView) -> float:
    """exp of the entropy of the shares that the eigenvalues of the rows' covariance have in their sum (after
    Roy & Vetterli, EUSIPCO 2007): d where all directions vary alike, 1 where one does; NaN for fewer than two
    items or equal ones."""
    kept = np.flatnonzero(view.present)
    mean, gram = view.mean, np.zeros((view.rows.shape[1],) * 2)
    for start in range(0, len(kept), _BLOCK):
        rows = view.rows[kept[start : start + _BLOCK]] - mean.astype(np.float32)
        gram += rows.T @ rows
    spectrum = np.linalg.eigvalsh(gram).clip(min=0)
    if len(kept) < 2 or spectrum.sum() <= np.finfo(np.float32).eps * len(kept):
        return float("nan")
    shares = spectrum[spectrum > 0] / spectrum.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_cosine(view: ItemView) -> float:
    """Mean cosine over all pairs of two items that have the view: near 1, all lie in a narrow cone. From the
    sum of the rows, without the pairs; NaN for fewer than two items."""
    n = int(view.present.sum())
    total = view.rows.sum(axis=0, dtype=np.float64)
    own = np.einsum("nd,nd->", view.rows, view.rows, dtype=np.float64)
    return float((total @ total - own) / (n * (n - 1))) if n > 1 else float("nan")


def occurrences(neighbours: np.ndarray) -> np.ndarray:
    """N_k, (I,): in how many lists of `neighbours` (I, k) an item is; -1 pads them."""
    return np.bincount(neighbours[neighbours >= 0], minlength=len(neighbours))


def hubness(neighbours: np.ndarray) -> float:
    """Skewness of N_k over the items that have neighbours, E (N_k - m)^3 / s^3 (Radovanovic et al., JMLR
    2010): 0 where all are equally often a neighbour, large where a few are everybody's; 0 without spread."""
    counts = occurrences(neighbours)[neighbours[:, 0] >= 0].astype(np.float64)
    if not len(counts) or counts.std() == 0:
        return 0.0
    return float((((counts - counts.mean()) / counts.std()) ** 3).mean())


def agreement(first: np.ndarray, second: np.ndarray) -> tuple[float, int]:
    """Mean share of an item's k neighbours in one view, (I, k), that are its neighbours in the other too,
    over the items that have neighbours in both; and how many these are."""
    both = np.flatnonzero((first[:, 0] >= 0) & (second[:, 0] >= 0))
    shared = 0.0
    step = max(1, _PAIRS // (first.shape[1] * second.shape[1]))
    for start in range(0, len(both), step):
        rows = both[start : start + step]
        a, b = first[rows], second[rows]
        common = ((a[:, :, None] == b[:, None, :]) & (a >= 0)[:, :, None]).any(axis=2).sum(axis=1)
        shared += float((common / np.minimum((a >= 0).sum(axis=1), (b >= 0).sum(axis=1))).sum())
    return (shared / len(both) if len(both) else float("nan")), len(both)


def chance_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """What `agreement` of lists at random is on average: each of the other items that have both views is in a
    list of a of A others with probability a / A, in one of b of B with b / B. NaN where no item has both."""
    has_first, has_second = first[:, 0] >= 0, second[:, 0] >= 0
    others = int((has_first & has_second).sum()) - 1
    if others < 0:
        return float("nan")
    n_first, n_second = int(has_first.sum()) - 1, int(has_second.sum()) - 1
    a, b = min(first.shape[1], n_first), min(second.shape[1], n_second)
    return others * (a / n_first) * (b / n_second) / min(a, b)
