"""What sections are made of: tables in boxes of their own, figures, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..meter import duration
from .markup import Element, Node, el

Estimate = Mapping[str, Any]  # mean, low, high; the latter two null where there is no interval


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under a heading of its own."""

    key: str  # of the link to it
    title: str
    body: Sequence[Node]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A section that there is nothing for, and why."""

    title: str
    why: str


def table(
    caption: str, columns: Sequence[Node], rows: Sequence[Sequence[Node]], words: Sequence[int] = ()
) -> Element:
    """A table that scrolls in its own box; the first cell of a row names it, the columns at `words` hold
    words or drawings, the others numbers."""
    head = [el("th", column, scope="col", class_=_kind(n, words)) for n, column in enumerate(columns)]
    body = [
        el(
            "tr",
            el("th", row[0], scope="row"),
            *(el("td", cell, class_=_kind(n, words)) for n, cell in enumerate(row[1:], start=1)),
        )
        for row in rows
    ]
    return el(
        "div",
        el("table", el("caption", caption), el("thead", el("tr", *head)), el("tbody", *body)),
        class_="box",
        role="region",
        aria_label=caption,
        tabindex=0,
    )


def paragraph(*children: Node, **attributes: str) -> Element:
    return el("p", *children, **attributes)


def details(summary: str, *children: Node) -> Element:
    """What is there for those who ask."""
    return el("details", el("summary", summary), *children)


def number(value: float | None) -> str:
    """Four decimals, the precision that papers report; a dash where there is no figure."""
    return "–" if value is None else f"{value:.4f}"


def interval(estimate: Estimate | None) -> str:
    """`[0.0345, 0.0572]`; a dash where there is none."""
    if not estimate or estimate["low"] is None:
        return "–"
    return f"[{number(estimate['low'])}, {number(estimate['high'])}]"


def percent(value: float) -> str:
    """`13.3 %`, which no line ends in."""
    return f"{100 * value:.1f}\u00a0%"


def count(n: int, singular: str, plural: str | None = None) -> str:
    """`1 user`, `1,204 users`."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def took(seconds: float) -> str:
    """`0.8 s`, `42 s`, `3 min 5 s`."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _kind(position: int, words: Sequence[int]) -> str | None:
    return None if position == 0 or position in words else "number"
