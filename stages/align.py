"""Pre-training: a catalogue to a multimodal encoder whose image and text sides agree (ICA in AlignRec)."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from ..features.config import CatalogConfig, ExtractConfig
from ..features.encoders.beit3_checkpoint import write_beit3
from ..features.encoders.fingerprint import encoder_fingerprint
from ..features.files import digest_json, file_sha256
from ..features.pretraining.config import AlignConfig
from ..features.pretraining.items import split_held_out
from ..features.pretraining.model import freeze_unused, initial_model, initial_sizes, load_start
from ..features.pretraining.objectives import Objectives
from ..features.pretraining.task import AlignTask
from ..recsys.errors import InputError
from ..recsys.ranking import resolve_device
from ..recsys.team import Team
from .align_items import check_learnable, prepare_items, prepare_tokenizer, unlearnable
from .encoder_run import EncoderReport, EncoderRun, make_encoder
from .encoder_training import EncoderTraining
from .item_source import Source, read_source

log = logging.getLogger(__name__)

CODE_VERSION = 1  # raise it when the same catalogue and settings would give another encoder


def align(
    catalog: CatalogConfig,
    config: AlignConfig,
    extract: ExtractConfig,
    folder: Path,
    team: Team | None = None,
) -> EncoderReport:
    """Pre-train and write the encoder `folder` (`beit3:FOLDER`), unless an equal one is there already.

    Images are read within the limits of `extract`. All processes of a `team` call this; the leader alone
    looks at the folder and writes into it. Raises InputError for unusable input and DivergedError for a loss
    that is not finite.
    """
    team = team or Team()

    def read() -> Source:
        source = read_source(catalog, "align.text", config.text, extract)
        check_learnable(catalog.items, source, config)
        return source

    source = team.leader_first(read)

    def plan(work: Path) -> EncoderRun:
        return _plan(source, config, extract, work, team)

    return make_encoder("align", folder, align_lineage(source, config, extract), team, plan)


def _plan(source: Source, config: AlignConfig, extract: ExtractConfig, work: Path, team: Team) -> EncoderRun:
    """Read the items, build the model, check that they suit each other."""
    device = resolve_device(team.place(config.device))
    tokenizer, pieces = prepare_tokenizer(source, config, work)
    start = load_start(config)
    sizes = initial_sizes(config, start, pieces.vocabulary)
    prepared = prepare_items(source, pieces, sizes.image_size, sizes.grid, config, extract, work)
    items = prepared.items
    idle = unlearnable(items, config)
    if idle and team.leads:
        log.warning("no item has what %s is learned from; it is left out", " or ".join(idle))
    train_rows, held_out_rows = split_held_out(len(items), config.held_out, config.seed)
    teacher_dim = items.targets.shape[1] if config.teacher and items.targets is not None else None
    model = initial_model(config, sizes, start, teacher_dim).to(device)
    freeze_unused(model, config, bool(items.has_image.any()), bool(items.has_text.any()))
    task = AlignTask(model, Objectives(items, pieces, config, device))
    training = EncoderTraining(task, train_rows, held_out_rows, team)
    if prepared.truncated and team.leads:
        log.warning(
            "%d texts are cut to %d tokens (align.context_length)", prepared.truncated, pieces.context_length
        )
    return EncoderRun(
        items=items,
        training=training,
        write=lambda fresh: write_beit3(fresh, model, tokenizer, pieces.context_length),
        settings={**config.model_dump(mode="json"), "architecture": asdict(model.config)},
        failures=prepared.failures,
        truncated=prepared.truncated,
        id_dtype=source.catalog.item_ids.dtype,
    )


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
