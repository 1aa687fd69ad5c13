"""What a search leaves: where its trials are, their table, and the best setting as a configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ..features.files import atomic_path
from ..features.tables import write_parquet
from .config import Config
from .outcome import number, table

if TYPE_CHECKING:
    from .study import Tried

SHOWN = 10  # trials in the table


def tune_folder(config: Config) -> Path:
    return config.output / "tune"


def trial_folder(config: Config, trial: int) -> Path:
    return tune_folder(config) / f"trial-{trial:04d}"


def write_trials(trials: Sequence[Tried], config: Config) -> None:
    """trials.parquet: one row per trial; settings that are lists as JSON."""
    rows = []
    for trial in trials:
        row = trial_row(trial, config)
        settings = row.pop("settings")
        rows.append(row | {k: json.dumps(v) if isinstance(v, list) else v for k, v in settings.items()})
    write_parquet(tune_folder(config) / "trials.parquet", pl.DataFrame(rows, infer_schema_length=None))


def write_best(chosen: Config, best: Tried, config: Config) -> None:
    lines = [f"# Trial {best.number} of `mmrec tune`: {config.train.metric} {best.value} on validation."]
    lines += [f"#   {key} = {value!r}" for key, value in best.settings.items()]
    with atomic_path(tune_folder(config) / "best.toml") as temporary:
        temporary.write_text("\n".join([*lines, "", chosen.to_toml()]), encoding="utf-8")


def trial_row(trial: Tried, config: Config) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": "failed" if trial.value is None else "complete",
        config.train.metric: trial.value,
        "epochs": trial.facts.get("epochs"),
        "best_epoch": trial.facts.get("best_epoch"),
        "seconds": trial.facts.get("seconds"),
        "reason": trial.reason,
        "folder": trial_folder(config, trial.number).name,
        "settings": trial.settings,
    }


def trials_text(trials: Sequence[Tried], config: Config) -> str:
    ranked = sorted(trials, key=lambda trial: (trial.value is None, -(trial.value or 0), trial.number))
    failed = sum(trial.value is None for trial in trials)
    best = f"the best {SHOWN} of " if len(trials) > SHOWN else ""
    title = f"{best}{len(trials)} trials, {failed} failed, by {config.train.metric} on validation"
    settings = list(trials[0].settings)
    columns = ["trial", *(key.removeprefix("train.") for key in settings), config.train.metric, "epochs"]
    rows = [
        [
            str(trial.number),
            *(cell(trial.settings[key]) for key in settings),
            "failed" if trial.value is None else number(trial.value),
            str(trial.facts.get("epochs", "-")),
        ]
        for trial in ranked[:SHOWN]
    ]
    where = f"All trials are in {tune_folder(config) / 'trials.parquet'}; the best setting is in best.toml."
    return f"{table(title, columns, rows)}\n{where}\n"


def cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
