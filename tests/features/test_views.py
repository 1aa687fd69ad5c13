import pytest

from mmrec.features.errors import InputError
from mmrec.features.views import TextView, text_views

ALL = TextView("all", "{title}. {genres}. {tags}.")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"title": "Up", "genres": "Comedy", "tags": "pixar"}, "Up. Comedy. pixar."),
        ({"title": "Up", "genres": None, "tags": "pixar"}, "Up. pixar."),
        ({"title": "Up", "genres": "Comedy", "tags": "  "}, "Up. Comedy."),
        ({"title": None, "genres": "Comedy", "tags": "pixar"}, "Comedy. pixar."),
        ({"title": "", "genres": [], "tags": ["a", None, " ", "b"]}, "a, b."),
        ({"title": None, "genres": "", "tags": float("nan")}, None),
    ],
)
def test_a_missing_field_takes_the_text_before_it_along(row: dict[str, object], expected: str | None) -> None:
    assert ALL.render(row) == expected


def test_words_after_a_missing_last_field_go_too() -> None:
    view = TextView("stars", "{title}, rated {rating} stars.")
    assert view.render({"title": "Up", "rating": 4.0}) == "Up, rated 4 stars."
    assert view.render({"title": "Up", "rating": None}) == "Up."


def test_values_are_data_and_never_templates() -> None:
    view = TextView("title", "A {{film}} called  {title}")
    assert view.render({"title": " {year}\n %s {{x}} "}) == "A {film} called {year} %s {{x}}"
    assert view.columns == ("title",)


def test_numbers_are_written_as_people_write_them() -> None:
    view = TextView("n", "{n}")
    assert [view.render({"n": n}) for n in (0, 1999.0, 1.5, False)] == ["0", "1999", "1.5", "False"]


def test_every_unknown_column_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        text_views({"a": "{titel} {tags}", "b": "{Genre}"}, ["title", "tags", "genres"])
    assert "text view 'a' uses 'titel' (did you mean 'title'?)" in str(caught.value)
    assert "text view 'b' uses 'Genre' (did you mean 'genres'?)" in str(caught.value)


@pytest.mark.parametrize("template", ["{title", "title}", "{}", "{{title}}", "no field"])
def test_templates_that_cannot_mean_anything_are_refused(template: str) -> None:
    with pytest.raises(InputError, match="text view 'a'"):
        TextView("a", template)


def test_bytes_are_not_text() -> None:
    with pytest.raises(InputError, match="bytes"):
        TextView("a", "{a}").render({"a": b"x"})
