"""The catalogue as pre-training reads it: what can be learned from it, its tokenizer, its targets."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from ..features.config import ExtractConfig
from ..features.encoders.beit3_checkpoint import find_beit3
from ..features.encoders.pair_encoder import squashed
from ..features.encoders.registry import load_image_encoder
from ..features.encoders.sentence_pieces import SentencePieces
from ..features.errors import InputError
from ..features.pretraining.codes import read_codes
from ..features.pretraining.config import AlignConfig
from ..features.pretraining.items import Items
from ..features.pretraining.model import context_length
from ..features.pretraining.vocabulary import train_vocabulary
from .item_source import Prepared, Source, read_items

_TOKENIZER = "tokenizer.spm"


def check_learnable(file: str, source: Source, config: AlignConfig) -> None:
    """InputError where no objective can learn from the catalogue."""
    n_items = len(source.catalog)
    if n_items < 2:
        raise InputError(f"{file}: {n_items} items; pre-training needs two at least, one of them held out")
    has_images, has_texts = any(source.catalog.images), any(source.texts)
    possible = {
        "mlm": has_texts,
        "mim": has_images,
        "contrastive": has_images and has_texts,
        "joint": has_images and has_texts,
    }
    if not any(possible[name] for name, weight in config.objectives.model_dump().items() if weight):
        missing = " and ".join(
            what for what, has in (("images", has_images), ("texts", has_texts)) if not has
        )
        raise InputError(
            f"{file}: has no {missing}, so none of [align.objectives] can learn from it; name the columns in "
            "catalog.image and align.text"
        )


def prepare_tokenizer(source: Source, config: AlignConfig, work: Path) -> tuple[Path, SentencePieces]:
    """The checkpoint's tokenizer; from scratch one of the catalogue's own texts, trained into `work` or found
    there."""
    if not config.from_scratch:
        path = find_beit3(config.start).tokenizer
    else:
        path = work / _TOKENIZER
        if not path.is_file():
            texts = [text for text in source.texts if text is not None]
            # Without any text there is nothing to tokenize, but an encoder is saved with a tokenizer.
            train_vocabulary(texts or ["no text"], config.sizes()["vocabulary"], path)
    return path, SentencePieces(path, context_length(config))


def prepare_items(
    source: Source,
    pieces: SentencePieces,
    side: int,
    grid: int,
    config: AlignConfig,
    extract: ExtractConfig,
    work: Path,
) -> Prepared:
    """The items with their targets; images are side x side pixels, grid x grid patches."""
    load_teacher = (
        partial(load_image_encoder, config.teacher, device=config.device) if config.teacher else None
    )
    prepared = read_items(
        source,
        pieces.content,
        pieces.content_length,
        squashed(side),
        extract,
        work,
        load_teacher,
    )
    if config.codes is None:
        return prepared
    targets, has_target = read_codes(
        Path(config.codes), source.catalog.item_ids, grid**2, config.visual_codes
    )
    return replace(prepared, items=replace(prepared.items, targets=targets, has_target=has_target))


def unlearnable(items: Items, config: AlignConfig) -> list[str]:
    """The objectives that no item has the parts for; InputError where no other is left."""
    has_target = True if items.has_target is None else items.has_target
    both = items.has_image & items.has_text
    able = {"mlm": items.has_text, "mim": items.has_image & has_target, "contrastive": both, "joint": both}
    asked = [name for name, weight in config.objectives.model_dump().items() if weight]
    idle = [name for name in asked if not able[name].any()]
    if idle == asked:
        raise InputError(
            f"of {len(items)} items {items.has_image.sum()} have a picture that can be read, "
            f"{items.has_text.sum()} a text and {both.sum()} both, so there is nothing for "
            f"{', '.join(asked)} to learn from; look at catalog.image_root, align.text and align.codes"
        )
    return idle
