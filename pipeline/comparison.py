"""`mmrec compare`: evaluated runs against the first of them, as a table and as facts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..recsys.significance import PairedTest
from ..stages.compare import Comparison
from ..stages.compare import compare as compare_stage
from .outcome import Outcome, number, table

COLUMNS = ("run", "model", "mean", "difference", "relative", "95 % interval", "Wilcoxon p", "Holm p")


def compare(folders: Sequence[Path], split: str, metrics: Sequence[str]) -> Outcome:
    """Every run against the first, user by user; nothing is written."""
    comparison = compare_stage(folders, split, metrics)
    return Outcome(_facts(comparison), _text(comparison))


def _facts(comparison: Comparison) -> dict[str, Any]:
    tests = []
    for (metric, folder), test in comparison.tests.items():
        values = {**asdict(test), "relative": test.relative}
        shown = {name: value if math.isfinite(value) else None for name, value in values.items()}
        tests.append({"metric": metric, "run": str(folder), **shown})
    return {
        "split": comparison.split,
        "users": comparison.users,
        "reference": str(comparison.folders[0]),
        "models": {str(f): model for f, model in zip(comparison.folders, comparison.models, strict=True)},
        "comparisons": tests,
    }


def _text(comparison: Comparison) -> str:
    reference, *others = zip(comparison.folders, comparison.models, strict=True)
    tables = []
    for metric in dict.fromkeys(metric for metric, _ in comparison.tests):
        tests = [comparison.tests[metric, folder] for folder, _ in others]
        rows = [[str(reference[0]), reference[1], number(tests[0].reference), *["-"] * 5]]
        rows += [
            [str(folder), model, *_cells(test)] for (folder, model), test in zip(others, tests, strict=True)
        ]
        tables.append(table(f"{metric}, {comparison.split} split, {tests[0].users:,} users", COLUMNS, rows))
    n = len(comparison.tests)
    note = f"Differences from {reference[0]}, paired by user; Holm over {n} comparison{'s' if n > 1 else ''}."
    return "\n\n".join(tables) + f"\n{note}"


def _cells(test: PairedTest) -> list[str]:
    relative = f"{test.relative:+.1%}" if math.isfinite(test.relative) else "-"
    interval = f"[{test.low:+.4f}, {test.high:+.4f}]"
    return [
        number(test.mean),
        f"{test.difference:+.4f}",
        relative,
        interval,
        _p(test.p_value),
        _p(test.p_holm),
    ]


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 1e-4 else f"{value:.0e}"
