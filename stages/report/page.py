"""The page: a head that forbids everything but the page itself, a way around, sections, what is left out."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from .markup import Element, Node, clipped, el, named, rendered
from .parts import LeftOut, Section
from .style import STYLE


@dataclass(frozen=True, slots=True)
class Title:
    """What the page is about."""

    name: str  # of the run
    about: str  # one line: model, data
    made: str  # when, by which version


def page(title: Title, verdict: Sequence[Node], parts: Sequence[Section | LeftOut]) -> str:
    """The document as text."""
    sections = [part for part in parts if isinstance(part, Section)]
    left_out = [part for part in parts if isinstance(part, LeftOut)]
    links = [(section.key, section.title) for section in sections]
    if left_out:
        links.append(("left-out", "Not in this report"))
    body = el(
        "body",
        el("a", "Skip to the results", href="#main", class_="skip"),
        el(
            "header",
            el("p", "mmrec report", class_="kicker"),
            el("h1", named(title.name, 100)),
            el("p", named(title.about, 300), class_="about"),
            class_="top",
        ),
        el("nav", _links(links), aria_label="Sections"),
        el(
            "main",
            el("section", *verdict, aria_label="In short", class_="short"),
            *map(_section, sections),
            *([_left_out(left_out)] if left_out else []),
            id="main",
            tabindex=-1,
        ),
        el("footer", el("p", title.made)),
    )
    return rendered(el("html", _head(title), body, lang="en"), STYLE)


def policy(style: str) -> str:
    """The Content-Security-Policy: pictures that the page holds and this one style sheet, nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _head(title: Title) -> Element:
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy(STYLE)),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("meta", name="color-scheme", content="light dark"),
        el("link", rel="icon", href="data:,"),
        el("title", f"{clipped(title.name, 80)} – mmrec report"),
    )


def _links(links: Sequence[tuple[str, str]]) -> Element:
    return el("ul", *(el("li", el("a", title, href=f"#{key}")) for key, title in links))


def _section(section: Section) -> Element:
    heading = el("h2", section.title, id=section.key)
    return el("section", heading, *section.body, aria_labelledby=section.key)


def _left_out(parts: Sequence[LeftOut]) -> Element:
    entries = [el("div", el("dt", part.title), el("dd", named(part.why, 400))) for part in parts]
    return _section(Section("left-out", "Not in this report", [el("dl", *entries, class_="left-out")]))
