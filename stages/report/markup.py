"""HTML and SVG as trees of elements: text and attribute values are escaped here, and nowhere else.

A page that is made of the words of strangers is safe because there is no other way to put a word into it:
what is not an element is text, elements and attributes are those named below, and no address leaves the page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

_VOID = frozenset({"img", "link", "meta"})
_TAGS = _VOID | {
    *("html", "head", "title", "body", "header", "nav", "main", "section", "article", "footer", "div"),
    *("h1", "h2", "h3", "h4", "h5", "p", "span", "strong", "small", "bdi", "code", "pre", "a"),
    *("ol", "ul", "li", "dl", "dt", "dd", "details", "summary", "figure", "figcaption"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    *("svg", "desc", "g", "line", "rect", "circle", "path", "text"),
}
_ATTRIBUTES = {
    *("alt", "aria-hidden", "aria-label", "aria-labelledby", "charset", "class", "content", "height", "href"),
    *("http-equiv", "id", "lang", "name", "rel", "role", "scope", "src", "tabindex", "width"),
    *("cx", "cy", "d", "r", "rx", "text-anchor", "viewBox", "x", "x1", "x2", "y", "y1", "y2"),
}
_WITHIN = re.compile(r"#[a-z][a-z0-9-]*")
_NO_ICON = "data:,"  # keeps browsers from asking for one
_PICTURE = re.compile(r"data:image/(jpeg|png|webp);base64,[A-Za-z0-9+/]+={0,2}")
# Controls, halves of surrogate pairs, what is no character, and what turns the direction of text around.
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_BREAKS = re.compile("[\r\u2028\u2029]")

Node: TypeAlias = "Element | str"


@dataclass(frozen=True, slots=True)
class Element:
    """An element with its attributes and what is in it."""

    tag: str
    attributes: tuple[tuple[str, str], ...]
    children: tuple[Node, ...]


def el(tag: str, *children: Node, **attributes: str | float | bool | None) -> Element:
    """An element; `class_` stands for class, `aria_label` for aria-label, True for the bare name, and what is
    None or False is left out.

    Raises ValueError for a tag, an attribute or an address that this page has no use for.
    """
    if tag not in _TAGS:
        raise ValueError(f"no element <{tag}> in a report")
    if tag in _VOID and children:
        raise ValueError(f"<{tag}> holds nothing")
    pairs = []
    for key, value in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if name not in _ATTRIBUTES:
            raise ValueError(f"no attribute '{name}' in a report")
        if value is None or value is False:
            continue
        text = "" if value is True else _number(value) if isinstance(value, int | float) else value
        _check_address(name, text)
        pairs.append((name, text))
    return Element(tag, tuple(pairs), children)


def clean(text: str) -> str:
    """The text without what a page cannot show or what changes how its neighbours are read: such characters
    become U+FFFD, line separators plain ends of lines."""
    return _UNSHOWN.sub("\ufffd", _BREAKS.sub("\n", text))


def clipped(text: str, longest: int = 140) -> str:
    """The text on one line of at most so many characters."""
    line = " ".join(text[: 8 * longest].split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def named(text: str, longest: int = 140) -> Element:
    """A name from the data: short, and its direction of writing its own affair."""
    return el("bdi", clipped(text, longest))


def rendered(page: Element, style: str) -> str:
    """The document, with `style` (constant: it is not escaped) at the end of its head."""
    if "<" in style:
        raise ValueError("a style sheet that could end itself")
    return "<!doctype html>\n" + "".join(_parts(page, style)) + "\n"


def _parts(node: Node, style: str) -> Iterator[str]:
    if isinstance(node, str):
        yield html.escape(clean(node), quote=False)
        return
    attributes = (f' {name}="{html.escape(clean(value))}"' for name, value in node.attributes)
    yield f"<{node.tag}{''.join(attributes)}>"
    if node.tag in _VOID:
        return
    yield from _within(node.children, style)
    if node.tag == "head":
        yield f"<style>{style}</style>"
    yield f"</{node.tag}>"


def _within(children: Sequence[Node], style: str) -> Iterator[str]:
    for child in children:
        yield from _parts(child, style)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _check_address(name: str, value: str) -> None:
    inside = value == _NO_ICON or _WITHIN.fullmatch(value)
    if (name == "href" and not inside) or (name == "src" and not _PICTURE.fullmatch(value)):
        raise ValueError(f"{name} {value[:40]!r} leads out of the page")
