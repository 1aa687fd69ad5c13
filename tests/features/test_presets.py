"""CLIPER's sentences, word for word, mended and as its release wrote them."""

import logging
from typing import Any

import pytest
from pydantic import ValidationError

from mmrec.features.config import ExtractConfig
from mmrec.features.errors import InputError
from mmrec.features.presets import chosen_views

COLUMNS = ("title", "brand", "category", "description")
FULL = {
    "title": "Soft Bib",
    "brand": "Norvik",
    "category": [["Baby", "Feeding"], ["Gifts"]],
    "description": "A bib.\nWashable.",
}
EMPTY = dict.fromkeys(COLUMNS)


def sentences(row: dict[str, Any], **settings: Any) -> dict[str, str | None]:
    views = chosen_views(ExtractConfig(**{"views": "cliper", **settings}), tuple(row))
    return {view.name: view.render(row) for view in views}


def test_five_sentences_per_item() -> None:
    assert sentences(FULL) == {
        "title": "The product title is Soft Bib.",
        "brand": "The product brand is Norvik.",
        "category": "The product categories are Baby, Feeding.",
        "description": "The product description is A bib. Washable.",
        "global": "The product title is Soft Bib. The product brand is Norvik. The product categories are "
        "Baby, Feeding. The product description is A bib. Washable.",
    }


def test_what_an_item_lacks_is_left_out() -> None:
    assert set(sentences(EMPTY).values()) == {None}
    partly = sentences({**EMPTY, "brand": "Norvik"})
    assert partly["title"] is None
    assert partly["global"] == "The product brand is Norvik."


def test_the_released_sentences_with_their_faults() -> None:
    assert sentences(FULL, views="cliper-as-released") == {
        "title": "The product title is Soft Bib.",
        "brand": "The product brand is Norvik.",
        "category": "The product categories are Baby Feeding .",
        "description": "The product description is A bib. Washable.",
        "global": "The product title is {}. The product brand is {}. The product categories are {}. "
        "The product description is Baby Feeding ",
    }
    for row in (EMPTY, {**EMPTY, "title": "X", "brand": " ", "category": []}):
        missing = sentences(row, views="cliper-as-released")
        assert missing["title"] == "The product title is Missing."
        assert missing["category"] == "The product categories are Missing."
        assert missing["description"] == "The product description is Missing."
        assert missing["global"] is not None and missing["global"].endswith("description is Missing")


def test_prompts_begin_the_windows_of_all_views_but_the_global_one() -> None:
    for preset in ("cliper", "cliper-as-released"):
        views = chosen_views(ExtractConfig(views=preset), COLUMNS)
        prompts = {view.name: view.prompt for view in views}
        assert prompts["category"] == "The product categories are "
        assert prompts["global"] == ""
        assert all((view.render(FULL) or "").startswith(view.prompt) for view in views)


def test_columns_of_other_names_are_mapped_and_missing_ones_are_left_out(caplog) -> None:
    row = {"name": "Up", "genres": "Comedy"}
    with caplog.at_level(logging.WARNING):
        found = sentences(row, view_fields={"title": "name", "category": "genres"})
    assert found == {
        "title": "The product title is Up.",
        "category": "The product categories are Comedy.",
        "global": "The product title is Up. The product categories are Comedy.",
    }
    assert "no column for brand, description" in caplog.text


def test_views_of_ones_own_stand_beside() -> None:
    found = sentences({"title": "Up", "year": 2009}, text_views={"year": "From {year}."})
    assert list(found) == ["title", "global", "year"] and found["year"] == "From 2009."


def test_columns_that_cannot_be_found_are_named() -> None:
    with pytest.raises(InputError, match=r"view_fields\.title is 'nmae' \(did you mean 'name'\?\)"):
        sentences({"name": "Up"}, view_fields={"title": "nmae"})
    with pytest.raises(InputError, match=r"has none of title, brand, category, description.*'name'"):
        sentences({"name": "Up"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": "cliper", "text_views": {"title": "{title}"}}, "'title' is one of views"),
        ({"view_fields": {"title": "name"}}, "views is not"),
        ({"views": "cliper", "view_fields": {"name": "title"}}, "view_fields.name: not one of title"),
        ({"views": "cliper", "min_similarity": {"titel": 0.2}}, "min_similarity.titel: no such text view"),
        ({"views": "cliper", "foreign": {"text.global": "a.npy"}}, "has the name of another column"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExtractConfig(**settings)
