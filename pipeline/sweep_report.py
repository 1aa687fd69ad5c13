"""What a sweep found: figures over users and seeds, paired tests and cost, as JSON and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import polars as pl

from ..recsys.bootstrap import estimate, mean_over_users
from ..recsys.errors import InputError
from ..recsys.significance import paired_tests
from .grid import Cell, Grid
from .outcome import number

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """A cell that has been run; without an `account` it failed for `reason`."""

    cell: Cell
    folder: Path  # that holds its artefacts
    account: dict[str, Any] | None = None
    reason: str | None = None
    reused: bool = False


def sweep_facts(grid: Grid, results: Sequence[Result]) -> dict[str, Any]:
    """Everything that is reported, JSON-able. Figures of a row are over the seeds that finished."""
    groups: dict[Labels, list[Result]] = {}
    for result in results:
        groups.setdefault(result.cell.labels, []).append(result)
    per_user = {
        (result.cell.labels, result.cell.seed): pl.read_parquet(result.folder / "per_user.parquet")
        for result in results
        if result.account is not None
    }
    values = {split: _values(grid, per_user, split) for split in grid.config.splits}
    return {
        "axes": {axis.name: list(axis.overrides()) for axis in grid.config.axis},
        "seeds": list(grid.config.seeds),
        "metrics": list(grid.config.metrics),
        "rows": [
            {
                "labels": dict(zip((axis.name for axis in grid.config.axis), labels, strict=True)),
                "seeds": [result.cell.seed for result in group if result.account is not None],
                "figures": {split: _figures(grid, values[split], labels) for split in grid.config.splits},
                "cost": _cost([result.account for result in group if result.account is not None]),
                "folders": [str(result.folder) for result in group],
            }
            for labels, group in groups.items()
        ],
        "tests": [test for split in grid.config.splits for test in _tests(grid, values[split], split)],
        "failed": [
            {"cell": result.cell.name, "reason": result.reason}
            for result in results
            if result.account is None
        ],
    }


@dataclass(frozen=True, slots=True)
class _SplitValues:
    """Metrics of one split: per cell (users, metrics), NaN where a user has no value."""

    user_ids: dict[tuple[Labels, int], pl.Series]
    values: dict[tuple[Labels, int], np.ndarray]

    def seeds(self, labels: Labels) -> set[int]:
        return {seed for found, seed in self.values if found == labels}

    def over_seeds(self, labels: Labels, seeds: Iterable[int]) -> np.ndarray:
        """Means over seeds, (users, metrics): one value per user, however many seeds there are."""
        return np.mean([self.values[labels, seed] for seed in sorted(seeds)], axis=0)


def _values(grid: Grid, per_user: Mapping[tuple[Labels, int], pl.DataFrame], split: str) -> _SplitValues:
    user_ids, values = {}, {}
    for key, table in per_user.items():
        missing = [name for name in grid.config.metrics if name not in table.columns]
        splits = table["split"].unique(maintain_order=True).to_list()
        if missing or split not in splits:
            problem = f"no metric {', '.join(missing)}" if missing else f"no split '{split}'"
            known = [c for c in table.columns if c not in ("user_id", "split")] if missing else splits
            raise InputError(f"{' / '.join(key[0])}: {problem}; evaluated were {', '.join(known)}")
        rows = table.filter(pl.col("split") == split).sort("user_id")
        user_ids[key] = rows["user_id"]
        values[key] = rows.select(grid.config.metrics).to_numpy().astype(np.float64)
    return _SplitValues(user_ids, values)


def _figures(grid: Grid, split: _SplitValues, labels: Labels) -> dict[str, dict[str, Any]]:
    """Per metric: mean, its 95 % interval over users, and the deviation over seeds."""
    seeds = sorted(split.seeds(labels))
    if not seeds:
        return {}
    values = split.over_seeds(labels, seeds)
    ratios = {name: mean_over_users(values[:, n]) for n, name in enumerate(grid.config.metrics)}
    estimates = estimate(ratios, grid.config.resamples, seed=0)
    figures = {}
    for n, name in enumerate(grid.config.metrics):
        per_seed = [float(np.nanmean(split.values[labels, seed][:, n])) for seed in seeds]
        deviation = float(np.std(per_seed, ddof=1)) if len(seeds) > 1 else None
        figures[name] = {**estimates[name].as_json(), "seed_deviation": deviation, "per_seed": per_seed}
    return figures


def _cost(accounts: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Means over seeds, of memory the largest."""
    return {
        "seconds": _over(mean, [account["cost"]["seconds"] for account in accounts]),
        "train_seconds": _over(mean, [account["train_seconds"] for account in accounts]),
        "epochs": _over(mean, [account["epochs"] for account in accounts]),
        "peak_memory_mb": _over(max, [account["cost"]["peak_memory_mb"] for account in accounts]),
        "peak_gpu_memory_mb": _over(max, [account["cost"].get("peak_gpu_memory_mb") for account in accounts]),
        "parameters": _over(max, [account["parameters"] for account in accounts]),
    }


def _over(function: Any, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return function(known) if known else None


def _tests(grid: Grid, split: _SplitValues, name: str) -> list[dict[str, Any]]:
    """Every label against each control of its axis, all else equal; Holm over the tests of one metric and
    control."""
    tests = []
    combinations = list(dict.fromkeys(labels for labels, _ in split.values))
    for control in grid.config.compare:
        axis = grid.config.axes_of(control)[0]
        pairs = []
        for labels in combinations:
            reference = (*labels[:axis], control, *labels[axis + 1 :])
            common = split.seeds(labels) & split.seeds(reference)
            if labels != reference and common:
                _check_same_users(split, labels, reference)
                pairs.append((labels, reference, common))
        if not pairs:
            continue
        ours, theirs = (
            np.stack([split.over_seeds(pair[side], pair[2]) for pair in pairs]) for side in (0, 1)
        )
        for n, metric in enumerate(grid.config.metrics):
            found = paired_tests(theirs[:, :, n], ours[:, :, n], grid.config.resamples, seed=0)
            for (labels, _, seeds), test in zip(pairs, found, strict=True):
                named = dict(zip((axis.name for axis in grid.config.axis), labels, strict=True))
                tests.append(
                    {"split": name, "metric": metric, "labels": named, "control": control}
                    | {"seeds": len(seeds), "relative": _finite(test.relative)}
                    | {key: _finite(value) for key, value in asdict(test).items()}
                )
    return tests


def _check_same_users(split: _SplitValues, labels: Labels, reference: Labels) -> None:
    ours, theirs = (
        next(ids for (found, _), ids in split.user_ids.items() if found == side)
        for side in (labels, reference)
    )
    if not ours.equals(theirs):
        raise InputError(
            f"sweep.compare: {' / '.join(labels)} and {' / '.join(reference)} were evaluated on other users; "
            "an axis that changes [interactions] cannot be compared with"
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def sweep_text(facts: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    splits = list(facts["rows"][0]["figures"])
    blocks = [_figure_table(facts, split) for split in splits]
    controls = dict.fromkeys(test["control"] for test in facts["tests"])
    blocks.extend(_test_table(facts, control) for control in controls)
    if facts["failed"]:
        lines = [f"- {failure['cell']}: {failure['reason']}" for failure in facts["failed"]]
        blocks.append("\n".join([f"**Failed cells ({len(lines)}):**", "", *lines]))
    return "\n\n".join(blocks) + "\n"


def _figure_table(facts: Mapping[str, Any], split: str) -> str:
    metrics = facts["metrics"]
    several = len(facts["seeds"]) > 1
    title = f"**{split}**: mean [95 % interval over users]" + (" ± deviation over seeds" if several else "")
    columns = [*facts["axes"], *metrics, "epochs", "seconds", "peak MB", "parameters"]
    rows = []
    for row in facts["rows"]:
        figures, cost = row["figures"][split], row["cost"]
        cells = [_cell(figures.get(metric)) for metric in metrics]
        if len(row["seeds"]) < len(facts["seeds"]):
            cells[0] += f" ({len(row['seeds'])} of {len(facts['seeds'])} seeds)"
        whole = [_whole(cost[key]) for key in ("epochs", "seconds", "peak_memory_mb", "parameters")]
        rows.append([*row["labels"].values(), *cells, *whole])
    return f"{title}\n\n{_markdown(columns, rows, len(facts['axes']))}"


def _test_table(facts: Mapping[str, Any], control: str) -> str:
    columns = [*facts["axes"], "split", "metric", "mean", "control", "difference", "95 % interval", "Holm p"]
    rows = [
        [
            *test["labels"].values(),
            test["split"],
            test["metric"],
            number(test["mean"]),
            number(test["reference"]),
            f"{test['difference']:+.4f}",
            f"[{test['low']:+.4f}, {test['high']:+.4f}]",
            f"{test['p_holm']:.2g}",
        ]
        for test in facts["tests"]
        if test["control"] == control
    ]
    title = f"**Against {control}**, paired by user (means over seeds); Holm over the tests of one metric"
    return f"{title}\n\n{_markdown(columns, rows, len(facts['axes']) + 2)}"


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "failed"
    deviation = figure["seed_deviation"]
    spread = "" if deviation is None else f" ± {number(deviation)}"
    return f"{number(figure['mean'])} [{number(figure['low'])}, {number(figure['high'])}]{spread}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """A table whose first `left` columns are words, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(columns) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rule, *rows))
