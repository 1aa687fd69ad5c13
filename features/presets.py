"""Text views ready-made: the five sentences per item of CLIPER (arXiv 2407.05420), mended and as released."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .config import PRESET_FIELDS, ExtractConfig
from .errors import InputError
from .tables import did_you_mean
from .views import TextView, View, field_text, text_views

log = logging.getLogger(__name__)

PROMPTS = {
    "title": "The product title is ",
    "brand": "The product brand is ",
    "category": "The product categories are ",
    "description": "The product description is ",
}
_STOPS = {"title": ".", "brand": ".", "category": ".", "description": ""}  # descriptions bring their own


def chosen_views(config: ExtractConfig, columns: Sequence[str]) -> tuple[View, ...]:
    """The views of `extract.views`, then those of `extract.text_views`, over a catalogue's columns.

    Raises InputError for columns that are named and not there, and for a preset none of whose fields are.
    """
    preset: tuple[View, ...] = ()
    if config.views is not None:
        found = _found_columns(config.view_fields, columns)
        preset = _released(found) if config.views == "cliper-as-released" else _mended(found)
    return (*preset, *text_views(config.text_views, columns))


def _found_columns(mapping: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    """Field -> column of the preset's fields that the catalogue has."""
    wrong = [(field, column) for field, column in mapping.items() if column not in columns]
    known = ", ".join(f"'{column}'" for column in columns) or "none but ids and images"
    if wrong:
        named = ", ".join(
            f"extract.view_fields.{field} is '{column}'{did_you_mean(column, columns)}"
            for field, column in wrong
        )
        raise InputError(f"{named}, which the catalogue lacks; its columns are {known}")
    asked = {field: mapping.get(field, field) for field in PRESET_FIELDS}
    found = {field: column for field, column in asked.items() if column in columns}
    if not found:
        raise InputError(
            f"extract.views: the catalogue has none of {', '.join(PRESET_FIELDS)}; its columns are {known}. "
            'Say which are meant: view_fields = { title = "..." }'
        )
    missing = [field for field in PRESET_FIELDS if field not in found]
    if missing:
        log.warning(
            "extract.views: no column for %s, so these views are left out; name one in extract.view_fields",
            ", ".join(missing),
        )
    return found


@dataclass(frozen=True, slots=True)
class PresetView:
    """A sentence that no template with columns in it can make."""

    name: str
    template: str  # what the manifest records
    prompt: str
    sentence: Callable[[Mapping[str, Any]], str | None]

    def render(self, row: Mapping[str, Any]) -> str | None:
        return self.sentence(row)


def _mended(found: Mapping[str, str]) -> tuple[View, ...]:
    """Each field in its sentence, and all of these in one text; what an item lacks is left out."""
    views = tuple(TextView(field, _template(field, column), first_path) for field, column in found.items())

    def all_of_them(row: Mapping[str, Any]) -> str | None:
        rendered = (view.render(row) for view in views)
        return " ".join(sentence for sentence in rendered if sentence is not None) or None

    return (*views, PresetView("global", " ".join(view.template for view in views), "", all_of_them))


def _template(field: str, column: str) -> str:
    return f"{PROMPTS[field]}{{{column}}}{_STOPS[field]}"


def first_path(value: Any) -> str | None:
    """`field_text`, but of nested lists (the category paths of Amazon's catalogues) the first one alone."""
    return field_text(value[0] if _is_nested(value) else value)


def _is_nested(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)


def _released(found: Mapping[str, str]) -> tuple[View, ...]:
    """The release's sentences: "Missing" in the place of what is missing, category terms each followed by a
    space, and a global sentence whose placeholders were never filled but for the last, with the category."""
    views: list[View] = []
    for field, column in found.items():
        sentence = _released_sentence(field, column)
        views.append(PresetView(field, _template(field, column), PROMPTS[field], sentence))
    if "category" in found:
        column = found["category"]
        unfilled = " ".join(f"{PROMPTS[field]}{{}}." for field in ("title", "brand", "category"))
        before = f"{unfilled} {PROMPTS['description']}"
        sentence = _released_global(before, column)
        escaped = before.replace("{}", "{{}}")
        views.append(PresetView("global", f"{escaped}{{{column}}}", "", sentence))
    return tuple(views)


def _released_sentence(field: str, column: str) -> Callable[[Mapping[str, Any]], str]:
    def sentence(row: Mapping[str, Any]) -> str:
        text = _released_text(field, row[column])
        stop = "." if text is None else _STOPS[field]
        return f"{PROMPTS[field]}{'Missing' if text is None else text}{stop}"

    return sentence


def _released_global(before: str, column: str) -> Callable[[Mapping[str, Any]], str]:
    def sentence(row: Mapping[str, Any]) -> str:
        return f"{before}{_released_text('category', row[column]) or 'Missing'}"

    return sentence


def _released_text(field: str, value: Any) -> str | None:
    """The text in the slot; None for what the release took for missing: at most one character."""
    if field == "category" and isinstance(value, list):
        terms = value[0] if _is_nested(value) else value
        text = "".join(f"{term} " for term in map(field_text, terms) if term is not None)
    else:
        text = field_text(value) or ""
        text = f"{text} " if field == "category" and text else text
    if field == "description":
        text = text.replace("\n", " ")
    return text if len(text) > 1 else None
