"""Whether one system is better than another: paired tests over the same users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from .bootstrap import estimate, mean_over_users
from .errors import InputError

DECIMALS = 12  # equal differences are ties, whatever the rounding of a subtraction


@dataclass(frozen=True, slots=True)
class PairedTest:
    """One system against the reference on one metric; `difference` is its mean less the reference's."""

    users: int  # with a value in both
    reference: float
    mean: float
    difference: float
    low: float  # 95 % percentile interval of the difference over resamples of users
    high: float
    p_value: float  # Wilcoxon signed-rank, two-sided
    p_holm: float  # corrected for all tests of the call

    @property
    def relative(self) -> float:
        """The difference as a share of the reference's mean; NaN where that is 0."""
        return self.difference / self.reference if self.reference else float("nan")


def paired_tests(reference: np.ndarray, systems: np.ndarray, resamples: int, seed: int) -> list[PairedTest]:
    """One test per row of `systems` (tests, n) against the same row of `reference` (tests, n), users aligned.

    All tests share the resamples; p-values are corrected over all of them (Holm). A user without a value
    (NaN) in either system is left out of that test. Raises InputError when that leaves no user.
    """
    differences = np.round(systems - reference, DECIMALS)  # (tests, n), NaN where either is undefined
    defined = ~np.isnan(differences)
    if not defined.any(axis=1).all():
        raise InputError("no user has a value of the metric in both runs, so there is nothing to compare")
    ratios = {str(row): mean_over_users(values) for row, values in enumerate(differences)}
    intervals = estimate(ratios, resamples, seed)
    p_values = np.array([wilcoxon(row[here]) for row, here in zip(differences, defined, strict=True)])
    corrected = holm(p_values)
    tests = []
    for row, here in enumerate(defined):
        base, mean = float(reference[row, here].mean()), float(systems[row, here].mean())
        interval = intervals[str(row)]
        tests.append(
            PairedTest(
                int(here.sum()),
                base,
                mean,
                mean - base,
                interval.low,
                interval.high,
                float(p_values[row]),
                float(corrected[row]),
            )
        )
    return tests


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p of the signed-rank test (Wilcoxon, 1945), zeros dropped; 1 where nothing differs."""
    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 1.0
    result: Any = stats.wilcoxon(nonzero)  # a tuple by name, which type checkers do not see
    return float(result.pvalue)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Corrected p-values (m,) (Holm, 1979): the k-th smallest times m - k + 1, made monotone, at most 1."""
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(scaled)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected
