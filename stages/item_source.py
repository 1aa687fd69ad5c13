"""The catalogue as the training of an encoder reads it: a text and a picture of every item."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ..features.catalog import Catalog, read_catalog
from ..features.config import CatalogConfig, ExtractConfig
from ..features.decoding.transform import ImageTransform
from ..features.encoders.base import ImageEncoder
from ..features.files import digest_bytes, digest_json
from ..features.pretraining.items import Items
from ..features.shards import Failure
from ..features.views import text_views
from .encoding import hash_items
from .item_images import cached_images


@dataclass(frozen=True, slots=True)
class Source:
    """A catalogue and the text of each of its items."""

    catalog: Catalog
    texts: list[str | None]
    digest: str  # of ids, texts and image files


@dataclass(frozen=True, slots=True)
class Prepared:
    """Items to learn from, and what became of the others."""

    items: Items
    failures: list[Failure]  # images that could not be read
    truncated: int  # texts longer than the context


def read_source(
    catalog_config: CatalogConfig, setting: str, template: str | None, extract: ExtractConfig
) -> Source:
    """The catalogue with its texts, by the template of `setting`, that of the joint view, or all columns.

    Raises InputError for a template that the catalogue does not suit.
    """
    catalog = read_catalog(catalog_config)
    template = template or extract.joint or _all_columns(catalog.fields)
    views = text_views({setting: template}, catalog.fields.columns) if template else ()
    texts: list[str | None] = []
    hashes: list[str] = []
    with ThreadPoolExecutor(extract.workers) as pool:
        for start in range(0, len(catalog), extract.shard_rows):
            part = catalog.slice(start, start + extract.shard_rows)
            hashed = hash_items(part, views, None, (), extract, pool)
            hashes += hashed.content_hashes
            texts += next(iter(hashed.texts.values()), [None] * len(part))
    return Source(catalog, texts, digest_json([catalog.item_ids.to_list(), hashes]))


def read_items(
    source: Source,
    tokenize: Callable[[str], Sequence[int]],
    content_length: int,
    transform: ImageTransform,
    extract: ExtractConfig,
    work: Path,
    load_teacher: Callable[[], ImageEncoder] | None = None,
) -> Prepared:
    """The items with texts of at most so many tokens, and the teacher's vectors as targets if there is one.

    Transformed images are kept in `work`, or found there.
    """
    tokens: list[array[int]] = []  # a fifth of the memory of lists
    truncated = 0
    for text in source.texts:
        ids = array("i", () if text is None else tokenize(text))
        truncated += len(ids) > content_length
        tokens.append(ids[:content_length])
    images = cached_images(source.catalog, transform, extract, load_teacher, work)
    items = Items(
        pixels=images.pixels,
        has_image=images.present,
        tokens=tokens,
        image_groups=_groups(
            digest_bytes(pixels.tobytes()) if present else row
            for row, (pixels, present) in enumerate(zip(images.pixels, images.present, strict=True))
        ),
        text_groups=_groups(ids.tobytes() if ids else row for row, ids in enumerate(tokens)),
        targets=images.teacher,
    )
    return Prepared(items, images.failures, truncated)


def _all_columns(fields: pl.DataFrame) -> str | None:
    """A template of all columns of text, in their order."""
    columns = [
        name
        for name, dtype in fields.schema.items()
        if dtype in (pl.String, pl.Categorical, pl.Enum, pl.List(pl.String)) and not {"{", "}"} & set(name)
    ]
    return ". ".join(f"{{{name}}}" for name in columns) or None


def _groups(keys: Iterable[Hashable]) -> np.ndarray:
    """The same number for the same key, (n,)."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
