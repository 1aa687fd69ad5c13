"""H&M's fashion data: purchases of half a gigabyte and more, articles with pictures, all ids text.

An article's id begins with zeros, and its first three digits name the folder of its picture.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from ...features.tables import check_columns, read_table
from .folder import ImportFolder
from .source import Source
from .streams import column_batches

log = logging.getLogger(__name__)

_PURCHASES = {"t_dat": pa.date32(), "customer_id": pa.string(), "article_id": pa.string()}
_TEXTS = ("prod_name", "product_type_name", "colour_group_name", "section_name", "detail_desc")


def read(source: Source, target: ImportFolder) -> None:
    """Purchases with their day, articles with all their fields, and where the pictures are."""
    purchases = source.need("purchases", "transactions_train.csv", "transactions.csv")
    target.write_log(_purchases(purchases))
    path = source.need("articles", "articles.csv")
    articles = read_table(str(path), typed=())
    check_columns(str(path), ["article_id"], articles.columns)
    articles = articles.rename({"article_id": "item_id"})
    pictures = source.pictures("images")
    if pictures:
        paths = pl.Series("image", [pictures.get(item) for item in articles["item_id"]], pl.String)
        articles = articles.with_columns(paths)
        log.info("%d of %d articles have a picture", paths.count(), len(paths))
    else:
        log.warning("%s: no folder images/ with pictures: articles have texts alone", source.folder)
    texts = [name for name in _TEXTS if name in articles.columns]
    target.write_items([articles], "image" if pictures else None, source.folder, texts)


def _purchases(path: Path) -> Iterator[pl.DataFrame]:
    for batch in column_batches(path, _PURCHASES):
        yield batch.rename({"t_dat": "timestamp", "customer_id": "user_id", "article_id": "item_id"})
