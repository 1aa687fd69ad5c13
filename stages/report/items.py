"""Items as people know them: a name, some words, and a picture, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from ...features.catalog import Catalog
from ...features.errors import InputError
from ...features.tables import did_you_mean
from .markup import Element, Node, clipped, el, named

NO_PICTURE = "no picture"
_NAMES = ("title", "name", "product_name", "prod_name", "label")
_DETAILS = 3  # further texts of an item


@dataclass(frozen=True, slots=True)
class Picture:
    """A small picture as an address that holds it, and its size."""

    source: str
    width: int
    height: int


@dataclass(slots=True)
class ItemCards:
    """What there is to show of items, by their id as text; of others, the id stands for the name."""

    names: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # column -> text
    pictures: Mapping[str, Picture | str] = field(default_factory=dict)  # or why there is none

    def name(self, item_id: object) -> str:
        """The item's name, or its id where it has none."""
        return self.names.get(str(item_id)) or str(item_id)

    def picture(self, item_id: object) -> Node:
        """The picture, or an empty frame that says why; nothing at all where no item has one."""
        if not self.pictures:
            return ""
        picture = self.pictures.get(str(item_id), NO_PICTURE)
        if isinstance(picture, str):
            return el("span", el("bdi", clipped(picture, 40)), class_="frame none")
        alt = f"Picture of {clipped(self.name(item_id), 80)}"
        shown = el("img", src=picture.source, alt=alt, width=picture.width, height=picture.height)
        return el("span", shown, class_="frame")

    def card(self, item_id: object, *notes: Node, class_: str = "") -> Element:
        """A picture with its name and `notes` below it, as an entry of a list."""
        caption = el("span", named(self.name(item_id), 80), class_="caption")
        below = el("span", *notes, class_="notes")
        return el("li", self.picture(item_id), caption, below, class_=f"card {class_}".strip())


def strip(cards: Iterable[Element]) -> Element:
    """Cards in order, as many beside each other as there is room for."""
    return el("ol", *cards, class_="strip")


def label_column(fields: pl.DataFrame, asked: str | None) -> str | None:
    """The column that names items: what was asked for, one of the usual names, or the first of texts."""
    if asked is not None and asked not in fields.columns:
        hint = did_you_mean(asked, fields.columns)
        raise InputError(
            f"--label {asked}: the catalogue has no such column{hint}; it has {', '.join(fields.columns)}"
        )
    texts = [name for name, dtype in fields.schema.items() if dtype == pl.String]
    usual = [name for known in _NAMES for name in texts if name.lower() == known]
    return asked or next(iter([*usual, *texts]), None)


def described(catalog: Catalog, item_ids: Iterable[str], asked: str | None = None) -> ItemCards:
    """Names and texts of these items of the catalogue, as far as it has them; no pictures yet."""
    label = label_column(catalog.fields, asked)
    rows = catalog_rows(catalog, item_ids)
    found = (
        catalog.fields[list(rows.values())].to_dicts() if rows and catalog.fields.width else [{}] * len(rows)
    )
    names: dict[str, str] = {}
    texts: dict[str, dict[str, str]] = {}
    for item_id, record in zip(rows, found, strict=True):
        if label is not None and record[label] is not None:
            names[item_id] = str(record[label])
        others = {
            column: value for column, value in record.items() if column != label and isinstance(value, str)
        }
        texts[item_id] = dict(list(others.items())[:_DETAILS])
    return ItemCards(names, texts)


def catalog_rows(catalog: Catalog, item_ids: Iterable[str]) -> dict[str, int]:
    """The catalogue's row of each id, given as text, that it has."""
    wanted = pl.DataFrame({"id": list(dict.fromkeys(item_ids))}, schema={"id": pl.String})
    known = pl.DataFrame({"id": catalog.item_ids.cast(pl.String)}).with_row_index("row")
    joined = wanted.join(known, on="id", how="inner", maintain_order="left")
    return dict(zip(joined["id"].to_list(), joined["row"].to_list(), strict=True))
