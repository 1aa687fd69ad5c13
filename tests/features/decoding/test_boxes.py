"""What is cut from a picture for each image view."""

import pytest

from mmrec.features.decoding.boxes import image_view_cuts, image_view_definition, pixel_box
from mmrec.features.errors import InputError


def boxes(view: str, width: int, height: int, **crops) -> list[tuple[int, int, int, int]]:
    return [pixel_box(cut, width, height) for cut in image_view_cuts(view, crops)]


def test_quadrants_tile_the_image_without_overlap() -> None:
    assert boxes("quadrants", 5, 4) == [(0, 0, 3, 2), (3, 0, 5, 2), (0, 2, 3, 4), (3, 2, 5, 4)]


def test_the_centre_is_three_quarters_of_the_largest_square() -> None:
    assert boxes("center", 80, 40) == [(25, 5, 55, 35)]
    assert image_view_definition("center", {}) == {"center_square": 0.75}


def test_a_named_crop_comes_from_the_configuration() -> None:
    crops = {"logo": ((0.5, 0.0, 1.0, 0.25),)}
    assert boxes("logo", 8, 8, **crops) == [(4, 0, 8, 2)]
    assert image_view_definition("logo", crops) == {"boxes": [[0.5, 0.0, 1.0, 0.25]]}
    with pytest.raises(InputError, match="unknown image view 'lgo'; there are full, center, quadrants, logo"):
        image_view_cuts("lgo", crops)


def test_crops_of_one_pixel_and_of_everything() -> None:
    assert boxes("quadrants", 1, 1) == [(0, 0, 1, 1)] * 4
    assert boxes("full", 3, 3) == [(0, 0, 3, 3)]
