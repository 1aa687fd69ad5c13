"""The per-user metrics of several runs, paired by user and tested against the first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..features.errors import InputError
from ..features.tables import did_you_mean
from ..recsys.significance import PairedTest, paired_tests
from .lineage import read_lineage

RESAMPLES = 2000
# Settings that change a user's figures; the others change intervals, baselines or what is measured besides.
_SETTINGS = ("mask",)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A test per metric and run, in the order of the call; `folders[0]` is the reference."""

    folders: tuple[Path, ...]
    models: tuple[str, ...]
    split: str
    users: int
    tests: dict[tuple[str, Path], PairedTest]


@dataclass(frozen=True, slots=True)
class _Run:
    folder: Path
    evaluation: dict[str, Any]
    lineage: dict[str, str]
    per_user: pl.DataFrame  # user_id and the metrics, sorted by user_id


def compare(folders: Sequence[Path], split: str, metrics: Sequence[str], seed: int = 0) -> Comparison:
    """Test every run but the first against the first, on each metric of `split`.

    Raises FileNotFoundError for a run that was not evaluated, and InputError when runs were evaluated on
    other users, other interactions or by other rules, or lack a metric.
    """
    twice = [str(folder) for position, folder in enumerate(folders) if folder in folders[:position]]
    if twice:
        raise InputError(f"{', '.join(twice)}: named twice; compare different runs")
    names = list(dict.fromkeys(metrics))
    reference, *others = [_read(folder, split, names) for folder in folders]
    for run in others:
        _check_comparable(reference, run)
    pairs = [(metric, run) for metric in names for run in others]
    base = np.stack([reference.per_user[metric].to_numpy() for metric, _ in pairs])  # (tests, users)
    systems = np.stack([run.per_user[metric].to_numpy() for metric, run in pairs])
    tests = paired_tests(base, systems, RESAMPLES, seed)
    return Comparison(
        folders=tuple(folders),
        models=tuple(run.evaluation["model"] for run in (reference, *others)),
        split=split,
        users=len(reference.per_user),
        tests={(metric, run.folder): test for (metric, run), test in zip(pairs, tests, strict=True)},
    )


def _read(folder: Path, split: str, metrics: Sequence[str]) -> _Run:
    account, file = folder / "evaluation.json", folder / "per_user.parquet"
    if not account.is_file():
        raise FileNotFoundError(f"{folder}: no evaluation.json; evaluate it first with `mmrec evaluate`")
    lineage = read_lineage(account, "provenance", "lineage")
    if lineage is None:
        raise InputError(f"{folder}: evaluation.json or per_user.parquet is damaged; run `mmrec evaluate`")
    table = pl.read_parquet(file)
    splits = table["split"].unique(maintain_order=True).to_list()
    if split not in splits:
        raise InputError(f"{file}: no split '{split}'; it holds {', '.join(splits)}")
    known = [column for column in table.columns if column not in ("user_id", "split")]
    for metric in metrics:
        if metric not in known:
            hint = did_you_mean(metric, known)
            raise InputError(f"{file}: no metric '{metric}'{hint}; it holds {', '.join(known)}")
    rows = table.filter(pl.col("split") == split).select("user_id", *metrics).sort("user_id")
    return _Run(folder, json.loads(account.read_text(encoding="utf-8")), lineage, rows)


def _check_comparable(reference: _Run, run: _Run) -> None:
    """Raise InputError that names everything in which two evaluations are not like for like."""
    problems = []
    if reference.lineage["interactions"] != run.lineage["interactions"]:
        problems.append("other interactions or other splits of them")
    if reference.lineage["code"] != run.lineage["code"]:
        problems.append(f"other rules of measurement ({reference.lineage['code']}, {run.lineage['code']})")
    ours, theirs = (side.evaluation["provenance"]["evaluate"] for side in (reference, run))
    problems += [
        f"evaluate.{key} is {ours[key]!r} in the one and {theirs[key]!r} in the other"
        for key in _SETTINGS
        if ours[key] != theirs[key]
    ]
    if not reference.per_user["user_id"].equals(run.per_user["user_id"]):
        problems.append(_user_problem(reference.per_user["user_id"], run.per_user["user_id"]))
    if problems:
        raise InputError(
            f"{reference.folder} and {run.folder} cannot be compared: {'; '.join(problems)}. "
            "Run both with the same [interactions] and [evaluate] sections"
        )


def _user_problem(ours: pl.Series, theirs: pl.Series) -> str:
    if ours.dtype != theirs.dtype:
        return f"user ids are {ours.dtype} in the one and {theirs.dtype} in the other"
    only = [len(set(one) - set(other)) for one, other in ((ours, theirs), (theirs, ours))]
    return f"other users ({only[0]:,} only in the one, {only[1]:,} only in the other)"
