"""Text views of an item: sentences made from its fields."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import InputError
from .tables import did_you_mean

_TOKEN = re.compile(r"(?P<escaped>\{\{|\}\})|\{(?P<field>[^{}]+)\}|(?P<literal>[^{}]+)|(?P<stray>[{}])")
_SEPARATORS = " \t\r\n.,;:!?|/\\&+)]-–—·•"
_CLOSING = re.compile(r"[.!?…]*\s*$")  # what stays of the text after a missing last field


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
