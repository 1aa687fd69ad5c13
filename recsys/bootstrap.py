"""Means over users with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

CHUNK = 2**20  # draws in memory at a time
LEVELS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % percentile interval; the ends are NaN where no interval is defined."""

    mean: float
    low: float = float("nan")
    high: float = float("nan")

    def as_json(self) -> dict[str, float | None]:
        """{"mean", "low", "high"}; null for NaN, which JSON lacks."""
        values = {"mean": self.mean, "low": self.low, "high": self.high}
        return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def mean_over_users(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(numerators, denominators) of a plain mean; users without the value (NaN) are in neither."""
    defined = ~np.isnan(values)
    return np.where(defined, values, 0.0), defined.astype(np.float64)


def estimate(
    ratios: Mapping[str, tuple[np.ndarray, np.ndarray]], resamples: int, seed: int
) -> dict[str, Estimate]:
    """Per name: sum of numerators / sum of denominators, each given per user (n,), n >= 1, with its interval.

    Users are resampled with replacement, the same resamples for all names, so that differences between two
    names stay paired; with resamples = 0 there are no intervals.
    """
    above = np.stack([numerator for numerator, _ in ratios.values()], axis=1)  # (n, names)
    distinct = {
        denominator.tobytes(): denominator for _, denominator in ratios.values()
    }  # mostly one, of ones
    column = {content: position for position, content in enumerate(distinct)}
    below = np.stack(list(distinct.values()), axis=1)
    inverse = [column[denominator.tobytes()] for _, denominator in ratios.values()]
    means = _divide(above.sum(axis=0), below.sum(axis=0)[inverse])
    if resamples == 0:
        return {name: Estimate(float(mean)) for name, mean in zip(ratios, means, strict=True)}
    n, rng = len(above), np.random.default_rng(seed)
    replicates = np.empty((resamples, len(ratios)))
    chunk = max(1, CHUNK // n)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        replicates[start : start + rows] = _divide(weights @ above, (weights @ below)[:, inverse])
    low, high = np.quantile(replicates, LEVELS, axis=0)  # NaN for a name that one resample leaves undefined
    return {name: Estimate(*map(float, row)) for name, *row in zip(ratios, means, low, high, strict=True)}


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
