import numpy as np
import pytest
from PIL import Image

from mmrec.features.errors import InputError
from mmrec.features.views import TextView, crop, image_view_boxes, image_view_definition, text_views


def image_of(width: int, height: int) -> Image.Image:
    """An image whose pixel at (x, y) is (x, y, 0)."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8))


def corner(image: Image.Image) -> tuple[int, ...]:
    return np.asarray(image)[0, 0, :2].tolist()


def test_quadrants_tile_the_image_without_overlap() -> None:
    parts = [crop(image_of(5, 4), box) for box in image_view_boxes("quadrants", {})]
    assert [part.size for part in parts] == [(3, 2), (2, 2), (3, 2), (2, 2)]
    assert [corner(part) for part in parts] == [[0, 0], [3, 0], [0, 2], [3, 2]]


def test_the_centre_is_three_quarters_of_the_largest_square() -> None:
    image = image_of(80, 40)
    (box,) = image_view_boxes("center", {}, image.size)
    part = crop(image, box)
    assert part.size == (30, 30)
    assert corner(part) == [25, 5]
    assert image_view_definition("center", {}) == {"center_square": 0.75}


def test_a_named_crop_comes_from_the_configuration() -> None:
    crops = {"logo": ((0.5, 0.0, 1.0, 0.25),)}
    assert image_view_boxes("logo", crops) == crops["logo"]
    assert crop(image_of(8, 8), crops["logo"][0]).size == (4, 2)
    assert image_view_definition("logo", crops) == {"boxes": [[0.5, 0.0, 1.0, 0.25]]}
    with pytest.raises(InputError, match=r"unknown image view 'lgo' \(did you mean 'logo'\?\)"):
        image_view_boxes("lgo", crops)


def test_crops_of_one_pixel_and_of_everything() -> None:
    pixel, image = image_of(1, 1), image_of(3, 3)
    assert all(crop(pixel, box).size == (1, 1) for box in image_view_boxes("quadrants", {}))
    assert crop(image, image_view_boxes("full", {})[0]) is image


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
