"""The generated shop: reproducible, with the gaps of real data, and with tastes that content explains."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mmrec.pipeline.products import (
    Product,
    product_description,
    product_picture,
    product_title,
    random_product,
)
from mmrec.pipeline.shop import ATTRIBUTES, draw_interactions, generate_shop


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_seed_decides_every_byte(tmp_path: Path) -> None:
    shops = [
        generate_shop(tmp_path / name, n_items=40, n_users=20, image_size=32, seed=seed)
        for name, seed in [("a", 1), ("again", 1), ("b", 2)]
    ]
    first, again, other = (files_of(shop.folder) for shop in shops)
    assert first == again
    assert first != other


def test_the_shop_has_the_gaps_of_real_data(tmp_path: Path) -> None:
    shop = generate_shop(tmp_path, n_items=250, n_users=20, image_size=32)
    items = pl.read_csv(shop.items)
    missing = items.null_count().row(0, named=True)

    assert items.columns == ["item_id", "image", "title", "brand", "category", "description"]
    assert missing["item_id"] == 0
    assert all(0 < missing[column] < 40 for column in ("image", "brand", "category", "description"))

    broken = {"absent": 0, "unreadable": 0}
    for name in (f"images/sku-{n:05d}.{'png' if n % 4 == 0 else 'jpg'}" for n in range(250)):
        if not (tmp_path / name).exists():
            broken["absent"] += 1
            continue
        try:
            with Image.open(tmp_path / name) as image:
                image.load()
        except OSError:
            broken["unreadable"] += 1
    assert broken == {"absent": 1, "unreadable": 2}  # 1.2 % of 250 files, of three kinds


def test_the_log_names_known_items_without_repeats_in_order_of_time(tmp_path: Path) -> None:
    shop = generate_shop(tmp_path, n_items=60, n_users=50, interactions_per_user=8, image_size=32)
    log, items = pl.read_csv(shop.interactions), pl.read_csv(shop.items)

    assert log.columns == ["user_id", "item_id", "timestamp"]
    assert len(log) == shop.n_interactions == len(log.unique(["user_id", "item_id"]))
    assert log["user_id"].n_unique() == shop.n_users
    assert set(log["item_id"]) <= set(items["item_id"])
    assert log["timestamp"].is_sorted()
    assert log.group_by("user_id").len()["len"].min() >= 5


def test_texts_say_what_the_picture_shows() -> None:
    rng = np.random.default_rng(0)
    mug = Product(category="mug", pattern="striped", colour="red", accent="navy", brand="Norvik")
    for _ in range(20):
        title = product_title(mug, rng).lower()
        assert "mug" in title
        assert "striped" in title
        assert "red" in title
        assert "red with broad navy stripes" in product_description(mug, rng)


def test_a_picture_shows_the_colours_of_its_product() -> None:
    rng = np.random.default_rng(0)
    hat = Product(category="cushion", pattern="two-tone", colour="red", accent="blue", brand="Norvik")
    pixels = np.asarray(product_picture(hat, rng, size=96), dtype=int)

    def centre(mask: np.ndarray) -> float:
        return float(np.nonzero(mask)[0].mean())

    reddish = (pixels[..., 0] > 140) & (pixels[..., 1:].max(axis=2) < 90)
    blueish = (pixels[..., 2] > 150) & (pixels[..., 0] < 110)
    assert min(reddish.sum(), blueish.sum()) > 500
    assert centre(reddish) < centre(blueish)  # "red above and blue below"


@pytest.mark.parametrize("seed", [0, 1])
def test_content_tells_cold_items_apart_and_co_occurrence_beats_popularity(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_users, n_items = 400, 600
    products = [random_product(rng) for _ in range(n_items)]
    log = draw_interactions(products, n_users, 18, rng)
    users, items = log["user_idx"].to_numpy(), log["item_idx"].to_numpy()
    cold = rng.random(n_items) < 0.15
    held_out = rng.random(len(users)) < 0.2
    train = np.zeros((n_users, n_items))
    warm_test, cold_test = train.copy(), train.copy()
    train[users, items] = ~(cold[items] | held_out)
    warm_test[users, items] = held_out & ~cold[items]
    cold_test[users, items] = cold[items]

    def hits(scores: np.ndarray, positives: np.ndarray, candidates: np.ndarray) -> float:
        allowed = np.where(candidates & (train == 0), scores, -np.inf)
        top = np.argsort(-allowed, axis=1, kind="stable")[:, :10]
        return np.take_along_axis(positives, top, axis=1).sum() / positives.sum()

    content = np.hstack(
        [
            np.eye(len(values))[[values.index(getattr(product, name)) for product in products]]
            for name, (values, _) in ATTRIBUTES.items()
        ]
    )  # (n_items, attribute values), one-hot
    popularity = np.tile(train.sum(axis=0), (n_users, 1))
    by_content = train @ (content - content.mean(axis=0)) @ content.T
    gram = train.T @ train + 50 * np.eye(n_items)
    weights = np.linalg.inv(gram)
    co_occurrence = train @ (np.diag(np.diag(weights)) - weights) / np.diag(weights)  # EASE

    cold_by_chance = 10 / cold.sum()
    assert hits(by_content, cold_test, cold) > 2.5 * cold_by_chance
    assert hits(co_occurrence, warm_test, ~cold) > 1.15 * hits(popularity, warm_test, ~cold)
