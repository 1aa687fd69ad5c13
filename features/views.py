"""Views of an item: boxes cut from its image, sentences made from its fields."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from .config import Box
from .errors import InputError
from .tables import did_you_mean

_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
_CENTER_SHARE = 0.75  # side of the centre crop over the side of the largest square
_QUADRANTS: tuple[Box, ...] = (
    (0.0, 0.0, 0.5, 0.5),
    (0.5, 0.0, 1.0, 0.5),
    (0.0, 0.5, 0.5, 1.0),
    (0.5, 0.5, 1.0, 1.0),
)
_TOKEN = re.compile(r"(?P<escaped>\{\{|\}\})|\{(?P<field>[^{}]+)\}|(?P<literal>[^{}]+)|(?P<stray>[{}])")
_SEPARATORS = " \t\r\n.,;:!?|/\\&+)]-–—·•"
_CLOSING = re.compile(r"[.!?…]*\s*$")  # what stays of the text after a missing last field


def image_view_boxes(
    name: str, crops: Mapping[str, Sequence[Box]], size: tuple[int, int] = (1, 1)
) -> tuple[Box, ...]:
    """The boxes of a view as fractions of width and height; the view is the mean over its boxes.

    "center" is three quarters of the largest centred square, so its box depends on the image's `size`
    (width, height); the default gives the view's definition, for a square image.
    """
    if name in crops:
        return tuple(crops[name])
    if name == "full":
        return (_WHOLE,)
    if name == "quadrants":
        return _QUADRANTS
    if name == "center":
        width, height = size
        side = _CENTER_SHARE * min(width, height)
        left, top = (1 - side / width) / 2, (1 - side / height) / 2
        return ((left, top, 1 - left, 1 - top),)
    known = ["full", "center", "quadrants", *crops]
    raise InputError(f"unknown image view '{name}'{did_you_mean(name, known)}; define it in extract.crops")


def image_view_definition(name: str, crops: Mapping[str, Sequence[Box]]) -> dict[str, Any]:
    """What a manifest records of the view: whatever changes its pixels changes this."""
    if name == "center" and name not in crops:
        return {"center_square": _CENTER_SHARE}
    return {"boxes": [list(box) for box in image_view_boxes(name, crops)]}


def crop(image: Image.Image, box: Box) -> Image.Image:
    """The part of the image in `box`, at least one pixel; the image itself for the whole."""
    left, right = _span(box[0], box[2], image.width)
    top, bottom = _span(box[1], box[3], image.height)
    if (left, top, right, bottom) == (0, 0, image.width, image.height):
        return image
    return image.crop((left, top, right, bottom))


def _span(start: float, stop: float, length: int) -> tuple[int, int]:
    first = min(math.floor(start * length + 0.5), length - 1)
    return first, min(max(math.floor(stop * length + 0.5), first + 1), length)


class View(Protocol):
    """A named sentence about an item."""

    @property
    def name(self) -> str: ...

    @property
    def template(self) -> str:
        """What the manifest records of the sentence."""
        ...

    @property
    def prompt(self) -> str:
        """How the sentence begins for every item; each window of a long text begins so."""
        ...

    def render(self, row: Mapping[str, Any]) -> str | None:
        """The sentence for one item; None when there is nothing to say."""
        ...


def field_text(value: Any) -> str | None:
    """A field's value as text: lists joined by ", ", whole floats as integers; None when it is blank."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bytes):
        raise InputError("a text view uses a column of bytes; expected text, numbers or lists of them")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = ", ".join(text for text in map(field_text, value) if text is not None)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


@dataclass(frozen=True, slots=True)
class TextView:
    """A named sentence with `{column}` in it; `{{` and `}}` stand for braces.

    The text before a field belongs to the field and leaves with it when the item lacks the field. `as_text`
    writes a column's value.
    """

    name: str
    template: str
    as_text: Callable[[Any], str | None] = field_text
    parts: tuple[tuple[str, str], ...] = field(init=False, repr=False)  # (text before, column)
    tail: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts, tail = _parse(self.name, self.template)
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "tail", tail)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template names, in its order."""
        return tuple(column for _, column in self.parts)

    @property
    def prompt(self) -> str:
        """The text before the only column; a view of several columns has no prompt that suits them all."""
        before = [literal for literal, _ in self.parts]
        if len(before) > 1:
            return ""
        words = " ".join(before[0].split())
        return f"{words} " if words and before[0][-1].isspace() else words

    def render(self, row: Mapping[str, Any]) -> str | None:
        """The sentence for one item, white space collapsed, or None when the item has none of the fields."""
        written: list[str] = []
        for index, (literal, column) in enumerate(self.parts):
            value = self.as_text(row[column])
            if value is None:
                continue
            first_is_missing = index > 0 and not written
            written += [literal.lstrip(_SEPARATORS) if first_is_missing else literal, value]
        if not written:
            return None
        last_is_missing = self.as_text(row[self.parts[-1][1]]) is None
        written.append(_CLOSING.search(self.tail)[0] if last_is_missing else self.tail)  # pyright: ignore
        return " ".join("".join(written).split())


def text_views(templates: Mapping[str, str], columns: Sequence[str]) -> tuple[TextView, ...]:
    """The views that `templates` (name -> template) define over a catalogue with these columns.

    Raises InputError that names every unknown column of every view.
    """
    views = tuple(TextView(name, template) for name, template in templates.items())
    unknown = [(view.name, column) for view in views for column in view.columns if column not in columns]
    if unknown:
        found = ", ".join(
            f"text view '{name}' uses '{column}'{did_you_mean(column, columns)}" for name, column in unknown
        )
        known = ", ".join(f"'{column}'" for column in columns)
        raise InputError(f"{found}, which the catalogue lacks; its columns are {known}")
    return views


def _parse(name: str, template: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """The template as ((text before, column), ...) and the text after the last column."""
    parts: list[tuple[str, str]] = []
    literal = ""
    for token in _TOKEN.finditer(template):
        if token["stray"]:
            raise InputError(
                f"text view '{name}': lone '{token['stray']}' or empty '{{}}' at character "
                f"{token.start() + 1} of '{template}'; write {{column}}, or {{{{ and }}}} for braces"
            )
        if token["field"]:
            parts.append((literal, token["field"]))
            literal = ""
        else:
            literal += token["escaped"][0] if token["escaped"] else token["literal"]
    if not parts:
        raise InputError(
            f"text view '{name}' uses no column: '{template}'; write {{column}} where its value goes"
        )
    return tuple(parts), literal
