"""The catalogue as pre-training reads it: texts as tokens, images as pixels, targets of masked patches."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from ..features.catalog import Catalog, read_catalog
from ..features.config import CatalogConfig, ExtractConfig
from ..features.encoders.beit3_checkpoint import find_beit3
from ..features.encoders.registry import load_encoder
from ..features.encoders.sentence_pieces import SentencePieces
from ..features.errors import InputError
from ..features.files import digest_bytes, digest_json
from ..features.pretraining.codes import read_codes
from ..features.pretraining.config import AlignConfig
from ..features.pretraining.items import Items
from ..features.pretraining.model import context_length
from ..features.pretraining.vocabulary import train_vocabulary
from ..features.shards import Failure
from ..features.views import text_views
from .align_images import cached_images
from .encoding import hash_items

_TOKENIZER = "tokenizer.spm"


@dataclass(frozen=True, slots=True)
class Source:
    """A catalogue and the text of each of its items."""

    catalog: Catalog
    texts: list[str | None]
    digest: str  # of ids, texts and image files


def read_source(catalog_config: CatalogConfig, config: AlignConfig, extract: ExtractConfig) -> Source:
    """The catalogue with its texts; InputError where no objective can learn from it."""
    catalog = read_catalog(catalog_config)
    template = config.text or extract.joint or _all_columns(catalog.fields)
    views = text_views({"align.text": template}, catalog.fields.columns) if template else ()
    texts: list[str | None] = []
    hashes: list[str] = []
    with ThreadPoolExecutor(extract.workers) as pool:
        for start in range(0, len(catalog), extract.shard_rows):
            part = catalog.slice(start, start + extract.shard_rows)
            hashed = hash_items(part, views, None, (), extract, pool)
            hashes += hashed.content_hashes
            texts += next(iter(hashed.texts.values()), [None] * len(part))
    _check_learnable(catalog_config.items, catalog, texts, config)
    return Source(catalog, texts, digest_json([catalog.item_ids.to_list(), hashes]))


def _all_columns(fields: pl.DataFrame) -> str | None:
    """A template of all columns of text, in their order."""
    columns = [
        name
        for name, dtype in fields.schema.items()
        if dtype in (pl.String, pl.Categorical, pl.Enum, pl.List(pl.String)) and not {"{", "}"} & set(name)
    ]
    return ". ".join(f"{{{name}}}" for name in columns) or None


def _check_learnable(file: str, catalog: Catalog, texts: list[str | None], config: AlignConfig) -> None:
    if len(catalog) < 2:
        raise InputError(
            f"{file}: {len(catalog)} items; pre-training needs two at least, one of them held out"
        )
    has_images, has_texts = any(catalog.images), any(texts)
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
) -> tuple[Items, list[Failure], int]:
    """The items, what could not be read, and how many texts are longer than the context.

    Images are side x side pixels, grid x grid patches; they are decoded into `work`, or found there.
    """
    every = [[] if text is None else pieces.content(text) for text in source.texts]
    tokens = [ids[: pieces.content_length] for ids in every]
    load_teacher = partial(load_encoder, config.teacher, device=config.device) if config.teacher else None
    images = cached_images(source.catalog, side, extract, load_teacher, work)
    targets, has_target = images.teacher, None
    if config.codes is not None:
        targets, has_target = read_codes(
            Path(config.codes), source.catalog.item_ids, grid**2, config.visual_codes
        )
    items = Items(
        pixels=images.pixels,
        has_image=images.present,
        tokens=tokens,
        image_groups=_groups(
            digest_bytes(pixels.tobytes()) if present else row
            for row, (pixels, present) in enumerate(zip(images.pixels, images.present, strict=True))
        ),
        text_groups=_groups(tuple(ids) if ids else row for row, ids in enumerate(tokens)),
        targets=targets,
        has_target=has_target,
    )
    return items, images.failures, sum(len(ids) > pieces.content_length for ids in every)


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


def _groups(keys: Iterable[Hashable]) -> np.ndarray:
    """The same number for the same key, (n,)."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
