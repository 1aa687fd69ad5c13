"""How what was measured is named: splits for people, and the cut-offs that metrics have."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPLIT_TITLES = {
    "validation": "validation",
    "test": "test",
    "validation_cold": "validation: cold items against all",
    "validation_among_cold": "validation: cold items among themselves",
    "test_cold": "test: cold items against all",
    "test_among_cold": "test: cold items among themselves",
}


def cutoffs(metrics: Iterable[str]) -> list[int]:
    """Ascending, of recall, which is always measured."""
    return sorted(int(match[1]) for name in metrics if (match := re.fullmatch(r"recall@(\d+)", name)))


def main_cutoff(metrics: Iterable[str]) -> int:
    """20, the cut-off that papers report, where it was measured; else the largest."""
    found = cutoffs(metrics)
    return 20 if 20 in found else found[-1]
