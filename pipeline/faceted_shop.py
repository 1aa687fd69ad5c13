"""A generated shop of which it is known which view of an item tells which part of the users' taste.

Between shops that differ in `complementarity` alone, items, users and the log are the same: only what the
views tell of the items differs. docs/cliper.md, "Which view carries the taste", says how and why.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from .products import ASIDES, Product
from .shop import Attributes, Shop, breakages, draw_interactions, with_gaps, write_image

log = logging.getLogger(__name__)

WEIGHT = 2.0  # of every factor, in log-odds
FACTORS: Attributes = {  # of taste -> values that differ plainly, and weight
    "pattern": (("plain", "pinstriped", "checked", "starry"), WEIGHT),
    "brand": (("Norvik", "Quillo", "Ostara", "Ferro"), WEIGHT),
    "category": (("mug", "bag", "vase", "cushion"), WEIGHT),
    "accent": (("yellow", "pink", "white", "teal"), WEIGHT),
    "colour": (("red", "green", "navy", "brown"), WEIGHT),
}
VIEWS = ("title", "brand", "category", "description", "image")  # row n tells factor n, whatever the parameter
WRONG = 0.05  # share of what a view tells that is not true
ORDERS = (  # of the words of a text
    ("brand", "pattern", "colour", "category", "accent"),
    ("pattern", "colour", "category", "accent", "brand"),
    ("colour", "pattern", "category", "brand", "accent"),
)


def generate_faceted_shop(
    folder: Path,
    complementarity: float,
    n_items: int = 1500,
    n_users: int = 1000,
    interactions_per_user: int = 16,
    image_size: int = 96,
    seed: int = 0,
) -> Shop:
    """Write `items.csv`, `images/` and `interactions.csv` to `folder`; same arguments, same files.

    `complementarity` from 0, where every view tells every factor, to 1, where every factor is told by one
    view alone. Gaps and broken files are those of `generate_shop`. ValueError outside of 0 to 1.
    """
    _, telling_rng, errors_rng, words_rng, gaps_rng, users_rng = np.random.default_rng(seed).spawn(6)
    products = faceted_products(n_items, seed)
    telling = told(n_items, complementarity, telling_rng)
    seen = [  # of every item, what each view makes of it
        [_shown(product, tells[view], errors_rng) for view in range(len(VIEWS))]
        for product, tells in zip(products, telling, strict=True)
    ]

    (folder / "images").mkdir(parents=True, exist_ok=True)
    images = [f"images/sku-{n:05d}.{'png' if n % 4 == 0 else 'jpg'}" for n in range(n_items)]
    for name, shown, broken in zip(images, seen, breakages(n_items, gaps_rng), strict=True):
        picture_rng = words_rng.spawn(1)[0]  # its own: what one picture shows moves nothing in the next
        write_image(folder / name, shown[VIEWS.index("image")], image_size, broken, picture_rng)
    catalogue = pl.DataFrame(
        {
            "item_id": [f"sku-{n:05d}" for n in range(n_items)],
            "image": images,
            **{
                view: [_text(shown[n], view, words_rng) for shown in seen]
                for n, view in enumerate(VIEWS[:-1])
            },
        }
    )
    with_gaps(catalogue, gaps_rng).write_csv(folder / "items.csv")

    rows = draw_interactions(products, n_users, interactions_per_user, users_rng, FACTORS)
    pl.DataFrame(
        {
            "user_id": [f"user-{u:04d}" for u in rows["user_idx"]],
            "item_id": catalogue["item_id"].gather(rows["item_idx"]),
            "timestamp": rows["timestamp"],
        }
    ).write_csv(folder / "interactions.csv")
    log.info("%s: complementarity %g, %d interactions", folder, complementarity, len(rows))
    return Shop(folder, folder / "items.csv", folder / "interactions.csv", n_items, n_users, len(rows))


def faceted_products(n_items: int, seed: int) -> list[Product]:
    """What is true of the items of the shop of this size and seed, in the order of its catalogue."""
    rng = np.random.default_rng(seed).spawn(1)[0]
    drawn = [rng.choice(values, size=n_items).tolist() for values, _ in FACTORS.values()]
    return [Product(**dict(zip(FACTORS, attributes, strict=True))) for attributes in zip(*drawn, strict=True)]


def told(n_items: int, complementarity: float, rng: np.random.Generator) -> np.ndarray:
    """Which view of an item tells which factor, (n_items, views, factors) bool.

    The view of a factor's own row always tells it; each other one with probability 1 - complementarity,
    drawn per item. Of the same `rng`, what is told at a greater complementarity is told at a lesser one.
    """
    if not 0 <= complementarity <= 1:
        raise ValueError(f"complementarity must be from 0 to 1, got {complementarity}")
    drawn = rng.random((n_items, len(VIEWS), len(FACTORS))) >= complementarity
    return drawn | np.eye(len(VIEWS), len(FACTORS), dtype=bool)


def _shown(product: Product, tells: np.ndarray, rng: np.random.Generator) -> Product:
    """What a view tells of the product: "" where it tells nothing, another value in a share of WRONG."""
    shown = {}
    for (factor, (values, _)), is_told in zip(FACTORS.items(), tells, strict=True):
        wrong, other = rng.random() < WRONG, int(rng.integers(1, len(values)))  # drawn whether told or not
        value = getattr(product, factor)
        if wrong:
            value = values[(values.index(value) + other) % len(values)]
        shown[factor] = value if is_told else ""
    return replace(product, **shown)


def _text(shown: Product, view: str, rng: np.random.Generator) -> str:
    """The words of what is told, in one of several orders; a description says something of no import too."""
    order, aside = ORDERS[int(rng.integers(len(ORDERS)))], ASIDES[int(rng.integers(len(ASIDES)))]
    said = [(factor, getattr(shown, factor)) for factor in order]
    words = " ".join(
        f"with {value} details" if factor == "accent" else value for factor, value in said if value
    )
    words = words[0].upper() + words[1:]
    return f"{words}. {aside}" if view == "description" else words
