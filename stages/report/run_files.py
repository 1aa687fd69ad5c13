"""The accounts that the stages of a run left in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...features.errors import InputError
from ...recsys.errors import InputError as RecsysInputError

SCHEMA = 1


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What is there of a run; None for what is not."""

    folder: Path
    model: dict[str, Any] | None  # model/config.json
    training: dict[str, Any] | None  # model/metrics.json
    index: dict[str, Any] | None  # index/index.json
    evaluation: dict[str, Any] | None  # evaluation.json


def read_run(folder: Path) -> RunFiles:
    """The accounts in `folder`.

    Raises FileNotFoundError for one without model and evaluation, InputError for a damaged file or one of
    another version.
    """
    files = RunFiles(
        folder=folder,
        model=_read(folder / "model" / "config.json", SCHEMA),
        training=_read(folder / "model" / "metrics.json", None),
        index=_read(folder / "index" / "index.json", SCHEMA),
        evaluation=_read(folder / "evaluation.json", SCHEMA),
    )
    if files.model is None and files.evaluation is None:
        raise FileNotFoundError(
            f"{folder}: no trained model and no evaluation here, so nothing to report; use `mmrec run` first"
        )
    return files


def or_why(read: Callable[[], T]) -> T | str:
    """What `read` gives, or why it is not to be had: a report shows what there is."""
    try:
        return read()
    except (InputError, RecsysInputError, OSError) as error:
        return str(error)


def _read(path: Path, schema: int | None) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        found = facts.get("schema")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); run the stage again") from error
    if found != schema:
        raise InputError(f"{path}: schema {found}, this version reads {schema}")
    return facts
