"""The training of an encoder as a stage: reused if up to date, resumed if interrupted, written whole."""

from __future__ import annotations

import dataclasses
import glob
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ..features.errors import InputError
from ..features.files import (
    digest_json,
    fresh_folder,
    recover_folder,
    remove_stale_temporaries,
    write_json,
)
from ..features.pretraining.items import Items
from ..features.shards import Failure
from ..features.tables import write_parquet
from ..recsys.team import Team
from .checkpoint import FileCheckpoint
from .encoder_training import EncoderTraining
from .lineage import changes, file_sizes, read_lineage
from .progress import progress_bar

log = logging.getLogger(__name__)

LEDGER = "failures.parquet"


@dataclass(slots=True)
class EncoderReport:
    """What one training of an encoder did; `up_to_date` when the encoder was reused."""

    items: int = 0
    up_to_date: bool = False
    changed: list[str] = field(default_factory=list)  # components of the lineage, or "new"
    held_out: int = 0  # items that were not trained on
    without_image: int = 0
    without_text: int = 0
    truncated: int = 0  # texts longer than the context
    failed: int = 0  # items of whose images one or more could not be read
    reasons: dict[str, int] = field(default_factory=dict)  # failures by reason
    ledger: str = LEDGER
    parameters: int = 0
    epochs: int = 0
    kept_epoch: int = 0  # whose parameters the encoder has
    first: dict[str, Any] = field(default_factory=dict)  # held-out losses and retrieval before training
    last: dict[str, Any] = field(default_factory=dict)  # and of the epoch that is kept
    tested: list[dict[str, float]] = field(default_factory=list)  # retrieval before and after, where asked
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EncoderRun:
    """A training with all that it needs in memory; `write` puts the encoder into a folder."""

    items: Items
    training: EncoderTraining
    write: Callable[[Path], object]
    settings: dict[str, Any]
    failures: list[Failure]
    truncated: int
    id_dtype: pl.DataType

    def report(self, changed: list[str]) -> EncoderReport:
        progress, training = self.training.progress, self.training
        kept = progress.best_epoch if training.best else progress.epoch
        wanted = ("epoch", "held_out", "retrieval")
        test_rows = [] if training.test_rows is None else training.test_rows
        return EncoderReport(
            items=len(self.items),
            changed=changed,
            held_out=len(training.held_out_rows) + len(test_rows),
            without_image=int((~self.items.has_image).sum()),
            without_text=int((~self.items.has_text).sum()),
            truncated=self.truncated,
            failed=len({failure.item_id for failure in self.failures}),
            reasons=dict(Counter(failure.reason for failure in self.failures).most_common()),
            parameters=sum(parameter.numel() for parameter in training.named.values()),
            epochs=progress.epoch,
            kept_epoch=kept,
            first={key: progress.history[0][key] for key in wanted},
            last={key: progress.history[kept][key] for key in wanted},
            tested=progress.tested,
        )


def make_encoder(
    name: str, folder: Path, lineage: dict[str, str], team: Team, plan: Callable[[Path], EncoderRun]
) -> EncoderReport:
    """Train and write the encoder `folder`, unless one of this lineage is there already.

    `plan` gets a folder for what is worth keeping when the run is interrupted. All processes of the team call
    this; the leader alone looks at the folder and writes into it. The account of it all is NAME.json.
    """
    started = time.perf_counter()
    account = folder / f"{name}.json"
    lineage, changed = team.decide(lambda: (lineage, _changed(account, lineage)))
    work = folder.with_name(f".{name}-{folder.name}-{digest_json(lineage)[:16]}")
    if team.leads:
        _remove_others(work if changed else None, folder, name)
    if not changed:
        return _known_report(account)

    def planned() -> EncoderRun:
        work.mkdir(parents=True, exist_ok=True)
        made = plan(work)
        if made.failures and team.leads:  # said before hours of training
            reasons = Counter(failure.reason for failure in made.failures).most_common()
            listed = ", ".join(f"{reason} {count}" for reason, count in reasons)
            log.warning("%d pictures cannot be read, items count as without: %s", len(made.failures), listed)
        return made

    run = team.leader_first(planned)
    with progress_bar(name, run.training.schedule.epochs * run.training.steps_per_epoch) as advance:
        run.training.run(FileCheckpoint(work / "checkpoint.safetensors", digest_json(lineage)), advance)
    report = run.report(changed)
    report.seconds = time.perf_counter() - started
    if team.leads:
        _write(folder, account.name, run, report, lineage)
        shutil.rmtree(work)
    return report


def _write(
    folder: Path, account: str, run: EncoderRun, report: EncoderReport, lineage: dict[str, str]
) -> None:
    """The encoder, the failures, and last the account of it all."""
    lines = [dataclasses.astuple(failure) for failure in run.failures]
    schema = {"item_id": run.id_dtype, "view": pl.String, "reason": pl.String, "message": pl.String}
    with fresh_folder(folder) as fresh:
        run.write(fresh)
        write_parquet(fresh / LEDGER, pl.DataFrame(lines, schema, orient="row"))
        facts = {
            "files": file_sizes(fresh.iterdir()),
            "settings": run.settings,
            "report": report.facts(),
            "history": run.training.progress.history,
            "lineage": lineage,
        }
        write_json(fresh / account, facts)


def _changed(account: Path, lineage: dict[str, str]) -> list[str]:
    recover_folder(account.parent)
    _check_own(account.parent)
    return changes(read_lineage(account, "lineage"), lineage)


def _check_own(folder: Path) -> None:
    """InputError where `folder`, all of which an encoder will replace, holds what no run has written."""
    found = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    if folder.is_file() or (found and not {"align.json", "finetune.json"} & set(found)):
        raise InputError(
            f"{folder} is to be replaced by an encoder, but holds none ({', '.join(found[:3]) or 'a file'}); "
            "name a folder of its own in run.encoder"
        )


def _known_report(account: Path) -> EncoderReport:
    """What was said of the encoder when it was made."""
    report = EncoderReport(**json.loads(account.read_text(encoding="utf-8"))["report"])
    report.up_to_date, report.changed = True, []
    return report


def _remove_others(work: Path | None, folder: Path, name: str) -> None:
    """Remove what is left of runs that made `folder` other than `work`, on other input or with other
    settings, and what `work` was killed in the middle of writing. Other encoders beside it keep theirs."""
    for other in folder.parent.glob(f".{name}-{glob.escape(folder.name)}-{'[0-9a-f]' * 16}"):
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    if work is not None:
        remove_stale_temporaries(work)
