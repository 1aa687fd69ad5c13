"""A generated shop on disk: a catalogue with pictures, and a log of what users with latent tastes took.

It stands in for real data in the demo and in tests. Like real data it has gaps: some items lack an image, a
brand or a description, and a few image files are missing or broken.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from .products import (
    BRANDS,
    COLOURS,
    OUTLINES,
    PATTERNS,
    Product,
    product_description,
    product_picture,
    product_title,
    random_product,
)

log = logging.getLogger(__name__)

Attributes = Mapping[str, tuple[tuple[str, ...], float]]
ATTRIBUTES: Attributes = {  # attribute -> its values, and how much it matters to a user, in log-odds
    "category": (tuple(OUTLINES), 1.6),
    "pattern": (tuple(PATTERNS), 1.2),
    "colour": (tuple(COLOURS), 1.3),
    "brand": (tuple(BRANDS), 1.2),
}
N_STYLES = 10  # tastes are shared: a user is a blend of two styles plus something of their own
NO_IMAGE = 0.02  # shares of the items
BROKEN_IMAGE = 0.012
NO_TEXT = {"title": 0.01, "brand": 0.03, "category": 0.02, "description": 0.06}
BREAKAGES = ("truncated", "not an image", "absent")
YEAR_START, YEAR_SECONDS = 1_704_067_200, 365 * 86_400  # timestamps fall in 2024


@dataclass(frozen=True, slots=True)
class Shop:
    """Where the shop's files are; image paths in `items` are relative to `folder`."""

    folder: Path
    items: Path  # item_id, image, title, brand, category, description
    interactions: Path  # user_id, item_id, timestamp
    n_items: int
    n_users: int
    n_interactions: int


def generate_shop(
    folder: Path,
    n_items: int = 1200,
    n_users: int = 900,
    interactions_per_user: int = 18,
    image_size: int = 96,
    seed: int = 0,
) -> Shop:
    """Write `items.csv`, `images/` and `interactions.csv` to `folder`; same arguments, same files.

    `interactions_per_user` is a mean: users differ, none has fewer than five or more than half the shop.
    """
    products_rng, gaps_rng, users_rng = np.random.default_rng(seed).spawn(3)
    products = [random_product(products_rng) for _ in range(n_items)]

    (folder / "images").mkdir(parents=True, exist_ok=True)
    catalogue = _catalogue(products, products_rng)
    broken_images = breakages(n_items, gaps_rng)
    for product, row, broken in zip(products, catalogue.iter_rows(named=True), broken_images, strict=True):
        write_image(folder / row["image"], product, image_size, broken, products_rng)
    items = folder / "items.csv"
    with_gaps(catalogue, gaps_rng).write_csv(items)

    log_rows = draw_interactions(products, n_users, interactions_per_user, users_rng)
    interactions = folder / "interactions.csv"
    item_ids = catalogue["item_id"]
    pl.DataFrame(
        {
            "user_id": [f"user-{u:04d}" for u in log_rows["user_idx"]],
            "item_id": item_ids.gather(log_rows["item_idx"]),
            "timestamp": log_rows["timestamp"],
        }
    ).write_csv(interactions)
    log.info("%s: %d items, %d users, %d interactions", folder, n_items, n_users, len(log_rows))
    return Shop(folder, items, interactions, n_items, n_users, len(log_rows))


def draw_interactions(
    products: list[Product],
    n_users: int,
    interactions_per_user: int,
    rng: np.random.Generator,
    attributes: Attributes = ATTRIBUTES,
) -> pl.DataFrame:
    """A log (user_idx, item_idx, timestamp) ordered by time, without repeated pairs.

    A user takes items without replacement with odds exp(utility) (the Gumbel-top-k trick); utility is what
    the user's taste says of the item's attributes plus the item's popularity, so both the content of an item
    and what similar users took tell of it.
    """
    n_items = len(products)
    popularity = rng.normal(0, 0.8, size=n_items)
    taste = _tastes(products, n_users, attributes, rng)  # (n_users, n_items)
    drawn = taste + popularity + rng.gumbel(size=taste.shape)
    order = np.argsort(-drawn, axis=1, kind="stable")

    ceiling = max(1, n_items // 2)
    lengths = np.clip(rng.lognormal(np.log(interactions_per_user) - 0.08, 0.4, n_users).round(), 5, ceiling)
    user_idx = np.repeat(np.arange(n_users), lengths.astype(int))
    item_idx = np.concatenate([row[:n] for row, n in zip(order, lengths.astype(int), strict=True)])
    timestamp = YEAR_START + rng.integers(0, YEAR_SECONDS, size=len(user_idx))
    rows = pl.DataFrame({"user_idx": user_idx, "item_idx": item_idx, "timestamp": timestamp})
    return rows.sort("timestamp", "user_idx", "item_idx")


def _tastes(
    products: list[Product], n_users: int, attributes: Attributes, rng: np.random.Generator
) -> np.ndarray:
    """What each user makes of each item, (n_users, n_items): a weight per attribute value, summed."""
    blend = rng.dirichlet(np.full(N_STYLES, 0.15), size=n_users)  # (n_users, styles)
    utility = np.zeros((n_users, len(products)))
    for attribute, (values, weight) in attributes.items():
        style = rng.normal(size=(N_STYLES, len(values)))
        own = rng.normal(size=(n_users, len(values)))
        liking = weight * (0.9 * blend @ style + 0.45 * own)  # (n_users, values)
        code = [values.index(getattr(product, attribute)) for product in products]
        utility += liking[:, code]
    return utility


def _catalogue(products: list[Product], rng: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [f"sku-{n:05d}" for n in range(len(products))],
            "image": [f"images/sku-{n:05d}.{'png' if n % 4 == 0 else 'jpg'}" for n in range(len(products))],
            "title": [product_title(product, rng) for product in products],
            "brand": [product.brand for product in products],
            "category": [product.category for product in products],
            "description": [product_description(product, rng) for product in products],
        }
    )


def with_gaps(catalogue: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """The catalogue with a few empty cells, as in any real one."""
    shares = {"image": NO_IMAGE, **NO_TEXT}
    gaps = [
        pl.when(pl.Series(rng.random(len(catalogue)) < share))
        .then(None)
        .otherwise(pl.col(column))
        .alias(column)
        for column, share in shares.items()
    ]
    return catalogue.with_columns(gaps)


def breakages(n_items: int, rng: np.random.Generator) -> list[str | None]:
    """What is wrong with each item's image file; None for nearly all."""
    broken: list[str | None] = [None] * n_items
    for turn, item_idx in enumerate(rng.permutation(n_items)[: round(BROKEN_IMAGE * n_items)]):
        broken[item_idx] = BREAKAGES[turn % len(BREAKAGES)]
    return broken


def write_image(
    path: Path, product: Product, size: int, broken: str | None, rng: np.random.Generator
) -> None:
    encoded = io.BytesIO()
    picture = product_picture(product, rng, size)
    picture.save(encoded, "PNG" if path.suffix == ".png" else "JPEG", quality=92)
    content = encoded.getvalue()
    if broken == "truncated":
        content = content[: len(content) // 3]
    elif broken == "not an image":
        content = b"<html><body>404 Not Found</body></html>\n"
    if broken == "absent":
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content)
