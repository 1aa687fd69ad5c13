"""Items whose texts fit their picture worst: wrong photos, swapped texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .items import ItemCards
from .markup import Element, Node, clipped, el, named
from .parts import LeftOut, Section, count, details, number, paragraph, table


def mismatches_section(facts: Mapping[str, Any] | str, cards: ItemCards) -> Section | LeftOut:
    """`facts` are those of a `SimilarityReport`, or why there are none."""
    if isinstance(facts, str):
        return LeftOut("Texts that do not fit", facts)
    views = list(facts["views"])
    body: list[Node] = [
        paragraph(
            f"Of {count(facts['compared'], 'item')} with a picture and a text, {facts['mismatched']:,} fit "
            "no better than a random pairing. Below, the worst first: a wrong photo, a swapped text, or "
            "something that the encoder does not know."
        ),
        el(
            "ol",
            *(_item(row, views, cards) for row in facts["worst"] if row["mismatch"] > 0),
            class_="mismatches",
        ),
        details(f"Cosines with {facts['image_view']}", _distributions(facts)),
    ]
    return Section("mismatches", "Texts that do not fit their picture", body)


def _item(row: Mapping[str, Any], views: Sequence[str], cards: ItemCards) -> Element:
    item_id = row["item_id"]
    texts = [
        el("p", el("span", named(column, 30), ": ", class_="key"), el("bdi", clipped(text, 120)))
        for column, text in cards.texts.get(str(item_id), {}).items()
    ]
    cosines = " · ".join(f"{clipped(view, 30)} {number(row[f'similarity.{view}'])}" for view in views)
    return el(
        "li",
        cards.picture(item_id),
        el(
            "div",
            el("strong", named(cards.name(item_id), 80)),
            *texts,
            el("p", f"mismatch {row['mismatch']:.2f} · cosines: {cosines}", class_="note"),
        ),
    )


def _distributions(facts: Mapping[str, Any]) -> Element:
    quantiles = ["0.01", "0.05", "0.5", "0.95"]
    rows: list[Sequence[Node]] = [
        [
            named(view),
            f"{of_view['compared']:,}",
            *(number(of_view[key]) for key in ("mean", "std", "random_mean")),
            *(number(of_view["quantiles"].get(q)) for q in quantiles),
        ]
        for view, of_view in facts["views"].items()
    ]
    shares = [f"{float(q):.0%}" for q in quantiles]
    return table(
        "Cosine of texts with their picture; random: with other items' pictures",
        ["text view", "compared", "mean", "deviation", "random", *shares],
        rows,
    )
