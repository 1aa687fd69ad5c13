"""The shop of known views: who tells what at both ends and between, and the same taste throughout."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mmrec.pipeline.faceted_shop import FACTORS, VIEWS, faceted_products, generate_faceted_shop, told
from mmrec.pipeline.products import Product, product_picture

OWN = dict(zip(("title", "brand", "category", "description"), FACTORS, strict=False))  # text view -> factor


def drawn(complementarity: float, n_items: int = 400) -> np.ndarray:
    return told(n_items, complementarity, np.random.default_rng(0))


def test_at_the_ends_all_views_tell_all_or_each_tells_one() -> None:
    assert drawn(0.0).all()
    assert (drawn(1.0) == np.eye(len(VIEWS), dtype=bool)).all()


def test_what_is_told_shrinks_along_the_sweep() -> None:
    points = [0.0, 0.25, 0.5, 0.75, 1.0]
    sweep = [drawn(point) for point in points]
    assert all((more >= less).all() for more, less in pairwise(sweep))
    others = ~np.eye(len(VIEWS), dtype=bool)
    shares = [tells[:, others].mean() for tells in sweep]
    assert shares == pytest.approx([1 - point for point in points], abs=0.02)


def test_a_share_outside_of_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        drawn(1.5)


@pytest.mark.parametrize("complementarity", [0.0, 1.0])
def test_texts_say_what_is_told_and_no_more(tmp_path: Path, complementarity: float) -> None:
    products = faceted_products(80, seed=0)
    items = pl.read_csv(generate_faceted_shop(tmp_path, complementarity, 80, 20, image_size=32).items)
    for view, own in OWN.items():
        texts = [set((text or "").lower().replace(".", "").split()) for text in items[view]]
        for factor, (values, _) in FACTORS.items():
            true = [getattr(p, factor).lower() in text for p, text in zip(products, texts, strict=True)]
            if complementarity == 0 or factor == own:
                assert np.mean(true) > 0.8  # the rest is wrong or missing
            else:
                assert not any({value.lower() for value in values} & text for text in texts)


def test_items_taste_and_log_do_not_depend_on_complementarity(tmp_path: Path) -> None:
    logs = [
        generate_faceted_shop(
            tmp_path / name, complementarity, 60, 30, image_size=32
        ).interactions.read_bytes()
        for name, complementarity in [("redundant", 0.0), ("complementary", 1.0)]
    ]
    assert logs[0] == logs[1]


def test_same_arguments_same_files(tmp_path: Path) -> None:
    def files(name: str, seed: int) -> list[bytes]:
        folder = generate_faceted_shop(tmp_path / name, 0.5, 40, 20, image_size=32, seed=seed).folder
        return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]

    assert files("a", 1) == files("again", 1)
    assert files("a", 1) != files("b", 2)


def test_a_picture_leaves_out_what_is_not_told() -> None:
    def picture(**shown: str) -> Image.Image:
        untold = dict.fromkeys(FACTORS, "")
        return product_picture(Product(**(untold | shown)), np.random.default_rng(0), size=64)

    nothing = picture()
    assert np.ptp(np.asarray(nothing, dtype=int)[24:40, 24:40], axis=2).max() < 40  # no dye
    for shown in ({"category": "mug"}, {"pattern": "dotted"}, {"colour": "red"}, {"brand": "Norvik"}):
        assert picture(**shown).tobytes() != nothing.tobytes()
