"""Amazon Reviews 2023: a category's reviews and its items' metadata, as JSON lines of many gigabytes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from .folder import ImportFolder
from .source import Source
from .streams import json_batches

log = logging.getLogger(__name__)

_META = "meta_"
_REVIEWS = {
    "user_id": pl.String(),
    "parent_asin": pl.String(),
    "rating": pl.Float64(),
    "timestamp": pl.Int64(),  # milliseconds
}
_ITEMS = {
    "parent_asin": pl.String(),
    "title": pl.String(),
    "store": pl.String(),
    "main_category": pl.String(),
    "categories": pl.List(pl.String()),
    "features": pl.List(pl.String()),
    "description": pl.List(pl.String()),
    "images": pl.List(pl.Struct({"large": pl.String(), "hi_res": pl.String(), "thumb": pl.String()})),
}
_TEXTS = ("title", "store", "categories", "features", "description")


def read(source: Source, target: ImportFolder) -> None:
    """Ratings by parent product; products with texts and the addresses of their large pictures.

    Texts are as the shop wrote them, HTML and all.
    """
    files = {path.name.partition(".jsonl")[0]: path for path in source.find("*.jsonl")}
    categories = [name for name in files if not name.startswith(_META)]
    if not categories:
        raise source.lacks("reviews", ["CATEGORY.jsonl", "CATEGORY.jsonl.gz"])
    category = source.set_name("category", categories)
    target.write_log(_reviews(files[category]))
    meta = files.get(_META + category)
    if meta is None:
        log.warning("%s: no %s%s.jsonl: items have ids alone", source.folder, _META, category)
        return
    target.write_items(_items(meta), image="image", texts=_TEXTS)


def _reviews(path: Path) -> Iterator[pl.DataFrame]:
    for batch in json_batches(path, _REVIEWS):
        yield batch.rename({"parent_asin": "item_id"})


def _items(path: Path) -> Iterator[pl.DataFrame]:
    picture = pl.coalesce(pl.element().struct.field("large"), pl.element().struct.field("thumb"))
    for batch in json_batches(path, _ITEMS):
        images = pl.col("images").list.eval(picture).list.drop_nulls().alias("image")
        yield batch.with_columns(images).drop("images").rename({"parent_asin": "item_id"})
