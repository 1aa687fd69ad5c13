"""Fine-tuning: an encoder and a catalogue to one whose images and texts of these items find each other."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ..features.config import CatalogConfig, ExtractConfig
from ..features.encoders.fingerprint import encoder_fingerprint
from ..features.encoders.names import TEXTS_ALONE
from ..features.encoders.registry import build_encoder
from ..features.encoders.trainable import (
    TrainableEncoder,
    Training,
    choose_trained,
    load_trainable_images,
    load_trainable_texts,
)
from ..features.encoders.vlmo import VlmoEncoder
from ..features.errors import InputError
from ..features.files import digest_json
from ..features.finetuning.config import FinetuneConfig
from ..features.finetuning.contrastive import ContrastiveTask
from ..features.finetuning.pairs import split_pairs
from ..features.finetuning.two_encoders import TwoEncoders
from ..features.finetuning.vlmo import VlmoTask, with_heads
from ..features.pretraining.items import Items
from ..recsys.ranking import resolve_device
from ..recsys.team import Team
from .encoder_run import EncoderReport, EncoderRun, make_encoder
from .encoder_training import EncoderTraining
from .item_source import Source, read_items, read_source

log = logging.getLogger(__name__)

CODE_VERSION = 1  # raise it when the same catalogue and settings would give another encoder


def finetune(
    catalog: CatalogConfig,
    config: FinetuneConfig,
    extract: ExtractConfig,
    folder: Path,
    team: Team | None = None,
) -> EncoderReport:
    """Fine-tune `config.start` and write the encoder `folder`, unless an equal one is there already.

    With a `config.text_start` the two are tuned together, and written to `image` and `text` of the folder.
    Images are read within the limits of `extract`. All processes of a `team` call this; the leader alone
    looks at the folder and writes into it. Raises InputError for unusable input and DivergedError for a loss
    that is not finite.
    """
    team = team or Team()
    _check_place(config, folder)
    source = team.leader_first(lambda: read_source(catalog, "finetune.text", config.text, extract))
    lineage = {
        "catalogue": source.digest,
        "settings": digest_json(
            [config.settings(), extract.max_image_pixels, extract.max_image_bytes, extract.exif_rotate]
        ),
        "start": digest_json(encoder_fingerprint(config.start, "fp32")),
        "code": f"finetune/{CODE_VERSION}",
    }
    if config.text_start is not None:
        lineage["text_start"] = digest_json(encoder_fingerprint(config.text_start, "fp32"))

    def plan(work: Path) -> EncoderRun:
        return _plan(source, config, extract, work, team)

    return make_encoder("finetune", folder, lineage, team, plan)


def _check_place(config: FinetuneConfig, folder: Path) -> None:
    for key, name in (("start", config.start), ("text_start", config.text_start or "")):
        family, _, rest = name.partition(":")
        path = rest if family in ("beit3", "vlmo", TEXTS_ALONE) else rest.partition("/")[2]
        if path and (Path(path) == folder or folder in Path(path).parents):
            raise InputError(
                f"finetune.{key} lies in {folder}, which this run writes; start from another, or set "
                "run.output"
            )


def _plan(
    source: Source, config: FinetuneConfig, extract: ExtractConfig, work: Path, team: Team
) -> EncoderRun:
    """Load the encoder, read the items, split them, check that they suit each other."""
    encoder = _load(config, str(resolve_device(team.place(config.device))))
    prepared = read_items(source, encoder.tokenize, encoder.content_length, encoder.transform, extract, work)
    items = prepared.items
    train, validation, held_out = split_pairs(items, config.validation, config.held_out, config.seed)
    training = EncoderTraining(_task(encoder, items, config), train, validation, team, held_out)
    if team.leads:
        _log_split(items, train, validation, held_out)
        if prepared.truncated:
            log.warning(
                "%d texts are cut to %d tokens (finetune.context_length)",
                prepared.truncated,
                encoder.context_length,
            )
    return EncoderRun(
        items=items,
        training=training,
        write=encoder.save,
        settings=config.model_dump(mode="json"),
        failures=prepared.failures,
        truncated=prepared.truncated,
        id_dtype=source.catalog.item_ids.dtype,
    )


def _load(config: FinetuneConfig, device: str) -> TrainableEncoder:
    training = Training(config.method, config.last_layers, config.lora_rank, config.precision, config.seed)
    if config.text_start is not None:
        images = load_trainable_images(config.start, training, device, image_size=config.image_size)
        texts = load_trainable_texts(
            config.text_start, training, device, context_length=config.context_length
        )
        return TwoEncoders(images, texts, config.head_dim, config.seed)
    encoder = build_encoder(
        config.start,
        config.precision,
        device,
        config.context_length,
        True,
        config.image_size,
        trainable=True,
    )
    fresh: set[str] = set()
    if isinstance(encoder, VlmoEncoder):
        complete, fresh = with_heads(encoder.module, config.objectives, config.seed)
        encoder.module = complete.to(encoder.device)
    choose_trained(encoder.module, training)
    for name, parameter in encoder.module.named_parameters():
        plain = name.replace("parametrizations.", "").removesuffix(".original")
        if plain in fresh:
            parameter.requires_grad_(True)
    return encoder


def _task(encoder: TrainableEncoder, items: Items, config: FinetuneConfig) -> ContrastiveTask:
    if isinstance(encoder, VlmoEncoder):
        return VlmoTask(encoder, items, config)
    if not config.objectives.contrastive:
        raise InputError(
            "finetune.objectives.contrastive is 0, and the others are of a VLMo alone: nothing to learn; set "
            "it above 0"
        )
    return ContrastiveTask(encoder, items, config)


def _log_split(items: Items, *parts: np.ndarray) -> None:
    train, validation, held_out = map(len, parts)
    log.info(
        "%d of %d items are image-text pairs: %d to train on, %d to validate on, %d held out",
        train + validation + held_out,
        len(items),
        train,
        validation,
        held_out,
    )
