"""Pre-training: a catalogue to a multimodal encoder whose image and text sides agree (ICA in AlignRec)."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ..features.config import CatalogConfig, ExtractConfig
from ..features.encoders.beit3_checkpoint import write_beit3
from ..features.encoders.fingerprint import encoder_fingerprint
from ..features.files import (
    digest_json,
    file_sha256,
    fresh_folder,
    recover_folder,
    remove_stale_temporaries,
    write_json,
)
from ..features.pretraining.config import AlignConfig
from ..features.pretraining.items import Items, split_held_out
from ..features.pretraining.model import freeze_unused, initial_model, initial_sizes, load_start
from ..features.pretraining.objectives import Objectives
from ..features.shards import Failure
from ..features.tables import write_parquet
from ..recsys.errors import InputError
from ..recsys.ranking import resolve_device
from ..recsys.team import Team
from .align_items import Source, prepare_items, prepare_tokenizer, read_source, unlearnable
from .align_training import Pretraining
from .checkpoint import FileCheckpoint
from .lineage import changes, file_sizes, read_lineage
from .progress import progress_bar

log = logging.getLogger(__name__)

CODE_VERSION = 1  # raise it when the same catalogue and settings would give another encoder
ACCOUNT, LEDGER = "align.json", "failures.parquet"
_WORK = ".align-"  # folders of unfinished runs, beside the encoder


@dataclass(slots=True)
class AlignReport:
    """What one pre-training did; `up_to_date` when the encoder was reused."""

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
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def align(
    catalog: CatalogConfig,
    config: AlignConfig,
    extract: ExtractConfig,
    folder: Path,
    team: Team | None = None,
) -> AlignReport:
    """Pre-train and write the encoder `folder` (`beit3:FOLDER`), unless an equal one is there already.

    Images are read within the limits of `extract`. All processes of a `team` call this; the leader alone
    looks at the folder and writes into it. Raises InputError for unusable input and DivergedError for a loss
    that is not finite.
    """
    team = team or Team()
    started = time.perf_counter()
    source = team.leader_first(lambda: read_source(catalog, config, extract))
    lineage = align_lineage(source, config, extract)
    lineage, changed = team.decide(lambda: (lineage, _changed(folder, lineage)))
    work = folder.with_name(f"{_WORK}{digest_json(lineage)[:16]}")
    if team.leads:
        _remove_others(work if changed else None, folder.parent)
    if not changed:
        return _known_report(folder)
    run = team.leader_first(lambda: _plan(source, config, extract, work, team))
    with progress_bar("align", config.epochs * run.training.steps_per_epoch) as advance:
        run.training.run(FileCheckpoint(work / "checkpoint.safetensors", digest_json(lineage)), advance)
    report = run.report(changed)
    report.seconds = time.perf_counter() - started
    if team.leads:
        _write(folder, run, report, config, lineage)
        shutil.rmtree(work)
    return report


@dataclass(frozen=True, slots=True)
class _Run:
    """A pre-training, with all that it needs in memory."""

    items: Items
    training: Pretraining
    tokenizer: Path
    context_length: int
    failures: list[Failure]
    truncated: int
    id_dtype: pl.DataType

    def report(self, changed: list[str]) -> AlignReport:
        progress = self.training.progress
        kept = progress.best_epoch if self.training.best else progress.epoch
        wanted = ("epoch", "held_out", "retrieval")
        return AlignReport(
            items=len(self.items),
            changed=changed,
            held_out=len(self.training.held_out_rows),
            without_image=int((~self.items.has_image).sum()),
            without_text=int((~self.items.has_text).sum()),
            truncated=self.truncated,
            failed=len({failure.item_id for failure in self.failures}),
            reasons=dict(Counter(failure.reason for failure in self.failures).most_common()),
            parameters=sum(parameter.numel() for parameter in self.training.named.values()),
            epochs=progress.epoch,
            kept_epoch=kept,
            first={key: progress.history[0][key] for key in wanted},
            last={key: progress.history[kept][key] for key in wanted},
        )


def _plan(source: Source, config: AlignConfig, extract: ExtractConfig, work: Path, team: Team) -> _Run:
    """Read the items, build the model, check that they suit each other."""
    work.mkdir(parents=True, exist_ok=True)
    device = resolve_device(team.place(config.device))
    tokenizer, pieces = prepare_tokenizer(source, config, work)
    start = load_start(config)
    sizes = initial_sizes(config, start, pieces.vocabulary)
    items, failures, truncated = prepare_items(
        source, pieces, sizes.image_size, sizes.grid, config, extract, work
    )
    if team.leads:
        _warn(items, failures, unlearnable(items, config))
    train_rows, held_out_rows = split_held_out(len(items), config.held_out, config.seed)
    teacher_dim = items.targets.shape[1] if config.teacher and items.targets is not None else None
    model = initial_model(config, sizes, start, teacher_dim).to(device)
    freeze_unused(model, config, bool(items.has_image.any()), bool(items.has_text.any()))
    objectives = Objectives(items, pieces, config, device)
    training = Pretraining(model, objectives, train_rows, held_out_rows, team)
    if truncated and team.leads:
        log.warning("%d texts are cut to %d tokens (align.context_length)", truncated, pieces.context_length)
    id_dtype = source.catalog.item_ids.dtype
    return _Run(items, training, tokenizer, pieces.context_length, failures, truncated, id_dtype)


def _warn(items: Items, failures: list[Failure], idle: list[str]) -> None:
    """Say before hours of training what is not what it seems."""
    failed = Counter(failure.reason for failure in failures)
    if failed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in failed.most_common())
        log.warning("%d pictures cannot be read, items count as without: %s", failed.total(), reasons)
    if idle:
        log.warning("no item has what %s is learned from; it is left out", " or ".join(idle))


def _write(
    folder: Path, run: _Run, report: AlignReport, config: AlignConfig, lineage: dict[str, str]
) -> None:
    """The encoder, the failures, and last the account of it all."""
    lines = [dataclasses.astuple(failure) for failure in run.failures]
    schema = {"item_id": run.id_dtype, "view": pl.String, "reason": pl.String, "message": pl.String}
    with fresh_folder(folder) as fresh:
        write_beit3(fresh, run.training.model, run.tokenizer, run.context_length)
        write_parquet(fresh / LEDGER, pl.DataFrame(lines, schema, orient="row"))
        account = {
            "files": file_sizes(fresh.iterdir()),
            "settings": config.model_dump(mode="json"),
            "architecture": asdict(run.training.model.config),
            "report": report.facts(),
            "history": run.training.progress.history,
            "lineage": lineage,
        }
        write_json(fresh / ACCOUNT, account)


def align_lineage(source: Source, config: AlignConfig, extract: ExtractConfig) -> dict[str, str]:
    """What an encoder is made from: equal lineages, equal encoders."""
    lineage = {
        "catalogue": source.digest,
        "settings": digest_json(
            [config.settings(), extract.max_image_pixels, extract.max_image_bytes, extract.exif_rotate]
        ),
        "code": f"align/{CODE_VERSION}",
    }
    if not config.from_scratch:
        lineage["start"] = digest_json(encoder_fingerprint(f"beit3:{config.start}", "fp32"))
    if config.teacher is not None:
        lineage["teacher"] = digest_json(encoder_fingerprint(config.teacher, "fp32"))
    if config.codes is not None:
        if not Path(config.codes).is_file():
            raise InputError(f"align.codes: {config.codes} is no file; expected .npy or Parquet")
        lineage["codes"] = file_sha256(config.codes)
    return lineage


def _changed(folder: Path, lineage: dict[str, str]) -> list[str]:
    recover_folder(folder)
    return changes(read_lineage(folder / ACCOUNT, "lineage"), lineage)


def _known_report(folder: Path) -> AlignReport:
    """What was said of the encoder when it was made."""
    account = json.loads((folder / ACCOUNT).read_text(encoding="utf-8"))
    report = AlignReport(**account["report"])
    report.up_to_date, report.changed = True, []
    return report


def _remove_others(work: Path | None, folder: Path) -> None:
    """Remove what is left of runs in `folder` other than `work`, on other input or with other settings, and
    what `work` was killed in the middle of writing."""
    for other in folder.glob(f"{_WORK}*"):
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    if work is not None:
        remove_stale_temporaries(work)
