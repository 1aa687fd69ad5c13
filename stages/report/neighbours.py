"""What the features hold to be alike: neighbours of some items by every view."""

from __future__ import annotations

from collections.abc import Sequence

from .items import ItemCards, strip
from .markup import Element, Node, clipped, el, named
from .nearest import Neighbourhood
from .parts import LeftOut, Section, paragraph


def neighbours_section(
    found: Sequence[Neighbourhood] | str, by_interactions: bool, views_left_out: int, cards: ItemCards
) -> Section | LeftOut:
    """`found` may be why there is nothing."""
    if isinstance(found, str):
        return LeftOut("Neighbours by view", found)
    if not found:
        return LeftOut("Neighbours by view", "no item was asked for, or the feature store is empty")
    chosen = "the items with most interactions" if by_interactions else "items evenly spaced in the catalogue"
    more = f" {views_left_out} further views are not shown." if views_left_out else ""
    body: list[Node] = [
        paragraph(
            f"The nearest items of {chosen}, by the cosine of each view's vectors. A view whose neighbours "
            f"make no sense to you will make none to a model.{more}"
        ),
        *(_item(neighbourhood, cards) for neighbourhood in found),
    ]
    return Section("neighbours", "Neighbours by view", body)


def _item(neighbourhood: Neighbourhood, cards: ItemCards) -> Element:
    name = cards.name(neighbourhood.item_id)
    head = el("header", cards.picture(neighbourhood.item_id), el("h3", named(name, 80)), class_="of-item")
    views = [
        el(
            "div",
            el("h4", named(view)),
            strip(cards.card(i, _cosine(c)) for i, c in nearest),
            class_="row small",
        )
        for view, nearest in neighbourhood.views.items()
    ]
    return el(
        "article", head, el("div", *views, class_="views"), aria_label=f"Neighbours of {clipped(name, 80)}"
    )


def _cosine(value: float) -> Element:
    return el("span", f"{value:.2f}", class_="place")
