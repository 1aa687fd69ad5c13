"""Generated products: attributes drawn at random, a picture of them, and texts that say what it shows.

The demo's shop and the training of the tiny CLIP take their items from here, so neither needs a download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (206, 38, 42),
    "orange": (240, 132, 28),
    "yellow": (246, 214, 52),
    "green": (48, 142, 62),
    "teal": (28, 150, 150),
    "blue": (52, 118, 226),
    "navy": (26, 36, 96),
    "purple": (122, 56, 168),
    "pink": (244, 132, 178),
    "brown": (122, 76, 42),
    "black": (30, 30, 32),
    "white": (246, 246, 244),
    "grey": (136, 138, 142),
    "beige": (222, 200, 158),
}
PATTERNS = {  # how a description says it; `accent` is the second colour
    "plain": "in plain {colour} all over",
    "striped": "in {colour} with broad {accent} stripes",
    "pinstriped": "in {colour} with thin {accent} lines running down",
    "dotted": "in {colour} with round {accent} dots",
    "checked": "in {colour} and {accent} squares",
    "zigzag": "in {colour} with a zigzag of {accent}",
    "starry": "in {colour} with {accent} stars",
    "two-tone": "{colour} above and {accent} below",
}
BRANDS = {  # the mark on the badge and its ink
    "Norvik": ("disc", (20, 20, 20)),
    "Halden": ("ring", (190, 20, 30)),
    "Pallas": ("square", (20, 70, 180)),
    "Quillo": ("triangle", (10, 120, 50)),
    "Brisa": ("wedge", (20, 20, 20)),
    "Tamsin": ("plus", (190, 20, 30)),
    "Ostara": ("cross", (20, 70, 180)),
    "Lumen": ("star", (10, 120, 50)),
    "Kestrel": ("diamond", (20, 20, 20)),
    "Ferro": ("bars", (190, 20, 30)),
    "Mirelle": ("moon", (20, 70, 180)),
    "Juno": ("pillars", (10, 120, 50)),
}

# Shapes added (+) or cut out (-) in turn, in a unit square, as points x,y: two points are the corners of an
# ellipse, more are a polygon.
OUTLINES = {
    "mug": (
        "+ 0.56,0.32 0.94,0.74",
        "- 0.66,0.42 0.84,0.64",
        "+ 0.16,0.2 0.72,0.2 0.7,0.88 0.18,0.88",
    ),
    "lamp": (
        "+ 0.3,0.08 0.7,0.08 0.92,0.56 0.08,0.56",
        "+ 0.46,0.5 0.54,0.5 0.54,0.88 0.46,0.88",
        "+ 0.26,0.8 0.74,0.96",
    ),
    "shirt": (
        "+ 0.3,0.12 0.7,0.12 0.98,0.36 0.84,0.52 0.74,0.44 0.74,0.92 0.26,0.92 0.26,0.44 0.16,0.52 0.02,0.36",
        "- 0.4,0.02 0.6,0.22",
    ),
    "bag": (
        "+ 0.3,0.04 0.7,0.6",
        "- 0.38,0.12 0.62,0.56",
        "+ 0.14,0.36 0.86,0.36 0.96,0.94 0.04,0.94",
    ),
    "teddy": (
        "+ 0.12,0.08 0.42,0.36",
        "+ 0.58,0.08 0.88,0.36",
        "+ 0.2,0.96 0.32,0.7 0.68,0.7 0.8,0.96 0.7,0.96 0.5,0.8 0.3,0.96",
        "+ 0.12,0.16 0.88,0.9",
    ),
    "chair": (
        "+ 0.18,0.04 0.34,0.04 0.36,0.5 0.86,0.5 0.86,0.98 0.76,0.98 0.74,0.64 0.3,0.64 0.28,0.98 0.18,0.98",
    ),
    "vase": (
        "+ 0.38,0.06 0.62,0.06 0.56,0.4 0.44,0.4",
        "+ 0.2,0.28 0.8,0.92",
        "+ 0.34,0.84 0.66,0.84 0.7,0.96 0.3,0.96",
    ),
    "hat": (
        "+ 0.22,0.16 0.78,1.1",
        "- 0,0.72 1,0.72 1,1.2 0,1.2",
        "+ 0,0.6 1,0.84",
    ),
    "bottle": ("+ 0.42,0.02 0.58,0.02 0.58,0.3 0.72,0.44 0.72,0.98 0.28,0.98 0.28,0.44 0.42,0.3",),
    "cushion": ("+ 0.02,0.06 0.5,0.16 0.98,0.06 0.88,0.5 0.98,0.94 0.5,0.84 0.02,0.94 0.12,0.5",),
    "umbrella": (
        "+ 0.02,0.08 0.98,1.08",
        "- 0,0.58 1,0.58 1,1.2 0,1.2",
        "+ 0.47,0.5 0.53,0.5 0.53,0.9 0.4,0.98 0.36,0.92 0.47,0.86",
    ),
    "boot": ("+ 0.24,0.04 0.62,0.04 0.62,0.56 0.96,0.7 0.96,0.94 0.24,0.94",),
}
MARKS = {
    "disc": ("+ 0.1,0.1 0.9,0.9",),
    "ring": (
        "+ 0.02,0.02 0.98,0.98",
        "- 0.28,0.28 0.72,0.72",
    ),
    "square": ("+ 0.14,0.14 0.86,0.14 0.86,0.86 0.14,0.86",),
    "triangle": ("+ 0.5,0.02 0.98,0.88 0.02,0.88",),
    "wedge": ("+ 0.02,0.12 0.98,0.12 0.5,0.98",),
    "plus": (
        "+ 0.36,0.02 0.64,0.02 0.64,0.98 0.36,0.98",
        "+ 0.02,0.36 0.98,0.36 0.98,0.64 0.02,0.64",
    ),
    "cross": (
        "+ 0.06,0.24 0.24,0.06 0.94,0.76 0.76,0.94",
        "+ 0.76,0.06 0.94,0.24 0.24,0.94 0.06,0.76",
    ),
    "star": ("+ 0.5,0 0.62,0.38 1,0.38 0.7,0.6 0.82,0.98 0.5,0.76 0.18,0.98 0.3,0.6 0,0.38 0.38,0.38",),
    "diamond": ("+ 0.5,0 0.88,0.5 0.5,1 0.12,0.5",),
    "bars": (
        "+ 0.04,0.08 0.96,0.08 0.96,0.36 0.04,0.36",
        "+ 0.04,0.64 0.96,0.64 0.96,0.92 0.04,0.92",
    ),
    "moon": (
        "+ 0.06,0.04 0.94,0.96",
        "- 0.36,0 1.1,0.78",
    ),
    "pillars": (
        "+ 0.1,0.04 0.36,0.04 0.36,0.96 0.1,0.96",
        "+ 0.64,0.04 0.9,0.04 0.9,0.96 0.64,0.96",
    ),
}

TITLES = (
    "{pattern} {colour} {category}",
    "{colour} {pattern} {category}",
    "{category} in {colour}, {pattern}",
    "{brand} {category}, {pattern}, {colour}",
    "{pattern} {category} by {brand} in {colour}",
    "{brand} {colour} {category} ({pattern})",
)
OPENINGS = (
    "A {category} {look}.",
    "This {category} comes {look}.",
    "{brand} made this {category} {look}.",
    "Our {pattern} {category}, {look}.",
    "The {category} you see is {look}.",
)
CLOSINGS = (
    "Made by {brand}.",
    "Look for the {brand} badge.",
    "From the house of {brand}.",
    "{brand} stands behind it.",
    "Another {category} from {brand}.",
)
ASIDES = (
    "Easy to clean.",
    "A gift that people keep.",
    "Ships within two days.",
    "Light and sturdy.",
    "Good for every day.",
    "Designed to last.",
    "Goes with everything at home.",
    "Small batch, made with care.",
)


# What a picture draws in the place of an attribute that is "".
SWATCH = ("+ 0.06,0.06 0.94,0.06 0.94,0.94 0.06,0.94",)
UNDYED, UNDYED_ACCENT = (176, 178, 180), (96, 98, 102)


@dataclass(frozen=True, slots=True)
class Product:
    """What is true of a product: its picture and its texts follow from it, up to random variation.

    A picture leaves out what is "": a square swatch has no category, a pale grey no colour.
    """

    category: str
    pattern: str
    colour: str
    accent: str  # the second colour; of no effect where the pattern is plain
    brand: str


def random_product(rng: np.random.Generator) -> Product:
    """A product with every attribute drawn uniformly; the accent differs from the colour."""
    colour, accent = rng.choice(list(COLOURS), size=2, replace=False)
    return Product(
        category=_pick(rng, tuple(OUTLINES)),
        pattern=_pick(rng, tuple(PATTERNS)),
        colour=str(colour),
        accent=str(accent),
        brand=_pick(rng, tuple(BRANDS)),
    )


def product_title(product: Product, rng: np.random.Generator) -> str:
    """One of several phrasings of pattern, colour and category, some with the brand."""
    return _sentence(_pick(rng, TITLES), product)


def product_description(product: Product, rng: np.random.Generator) -> str:
    """Three short sentences: its look with both colours, its maker, and something of no import."""
    look = PATTERNS[product.pattern].format(colour=product.colour, accent=product.accent)
    opening = _sentence(_pick(rng, OPENINGS), product, look=look)
    return f"{opening} {_sentence(_pick(rng, CLOSINGS), product)} {_pick(rng, ASIDES)}"


def product_picture(product: Product, rng: np.random.Generator, size: int = 96) -> Image.Image:
    """An RGB picture of `size` x `size` pixels; place, scale, tilt, background, light and noise vary."""
    scale = rng.uniform(0.72, 0.95)
    side = round(size * scale)
    left, top = (int(rng.integers(0, size - side + 1)) for _ in range(2))

    body = _filled(product, side, rng)
    outline = _shape(OUTLINES.get(product.category, SWATCH), side).rotate(
        rng.uniform(-10, 10), resample=Image.Resampling.BILINEAR
    )
    backdrop = tuple(int(c) for c in rng.integers(196, 244, size=3))
    picture = Image.new("RGB", (size, size), backdrop)
    rim = Image.new("RGB", (side, side), (70, 70, 74))  # keeps a white product apart from a pale backdrop
    picture.paste(rim, (left + 1, top + 1), outline)
    picture.paste(body, (left, top), outline)
    if product.brand:
        _stamp_badge(picture, product.brand, left + side // 2, top + round(0.62 * side), size, rng)
    return _photographed(picture, rng)


def _filled(product: Product, side: int, rng: np.random.Generator) -> Image.Image:
    fill = Image.new("RGB", (side, side), COLOURS.get(product.colour, UNDYED))
    accent = COLOURS.get(product.accent, UNDYED_ACCENT)
    pattern = product.pattern or ("two-tone" if product.accent else "plain")
    if pattern == "plain":
        return fill
    if pattern == "two-tone":
        fill.paste(accent, (0, side // 2, side, side))
        return fill
    stencil = _pattern(pattern, side)
    dx, dy = (int(shift) for shift in rng.integers(0, side, size=2))
    fill.paste(accent, (0, 0), stencil.crop((dx, dy, dx + side, dy + side)))
    return fill


def _stamp_badge(
    picture: Image.Image, brand: str, x: int, y: int, size: int, rng: np.random.Generator
) -> None:
    mark, ink = BRANDS[brand]
    across = round(size * rng.uniform(0.26, 0.31))
    jitter_x, jitter_y = (int(shift) for shift in rng.integers(-size // 24, size // 24 + 1, size=2))
    corner = (x - across // 2 + jitter_x, y - across // 2 + jitter_y)
    disc = Image.new("RGB", (across, across), (252, 252, 250))
    inner = round(across * 0.62)
    inset = (across - inner) // 2
    disc.paste(ink, (inset, inset), _shape(MARKS[mark], inner))
    picture.paste(disc, corner, _shape(MARKS["disc"], round(across / 0.8)).crop(_middle(across)))


def _middle(across: int) -> tuple[int, int, int, int]:
    margin = (round(across / 0.8) - across) // 2
    return margin, margin, margin + across, margin + across


def _photographed(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light falls off from one side, and the sensor adds noise."""
    pixels = np.asarray(picture, dtype=np.float32)  # (h, w, 3)
    ramp = np.linspace(-1, 1, len(pixels), dtype=np.float32)
    across, down = rng.uniform(-0.1, 0.1, size=2).astype(np.float32)
    light = np.float32(rng.uniform(0.88, 1.06)) + across * ramp[None, :] + down * ramp[:, None]
    noise = rng.integers(-6, 7, size=pixels.shape, dtype=np.int8)
    return Image.fromarray(np.clip(pixels * light[:, :, None] + noise, 0, 255).astype(np.uint8))


@cache
def _pattern(name: str, side: int) -> Image.Image:
    """Where the accent colour lies, on a sheet of twice the side; drawn once per size."""
    grid = np.indices((2 * side, 2 * side), dtype=np.float32) / side  # (2, 2 side, 2 side), y and x
    y, x = grid
    if name == "striped":
        where = np.mod(y, 0.24) < 0.12
    elif name == "pinstriped":
        where = np.mod(x, 0.14) < 0.045
    elif name == "checked":
        where = (np.mod(x, 0.32) < 0.16) ^ (np.mod(y, 0.32) < 0.16)
    elif name == "zigzag":
        where = np.mod(y + np.abs(np.mod(x, 0.28) - 0.14), 0.26) < 0.11
    elif name == "dotted":
        where = np.hypot(np.mod(x, 0.2) - 0.1, np.mod(y, 0.2) - 0.1) < 0.062
    else:  # starry
        return _tiled(_shape(MARKS["star"], round(0.21 * side)), 2 * side, round(0.28 * side))
    return Image.fromarray((where * 255).astype(np.uint8))


def _tiled(stamp: Image.Image, side: int, step: int) -> Image.Image:
    sheet = Image.new("L", (side, side))
    for row, top in enumerate(range(0, side, step)):
        for left in range(-(row % 2) * step // 2, side, step):
            sheet.paste(stamp, (left, top))
    return sheet


@cache
def _shape(drawing: tuple[str, ...], side: int) -> Image.Image:
    """A drawing as a mask of `side` x `side` pixels with smooth edges."""
    fine = 3 * side  # drawn large, then reduced
    canvas = Image.new("L", (fine, fine))
    pen = ImageDraw.Draw(canvas)
    for step in drawing:
        sign, *points = step.split()
        scaled = [(float(x) * fine, float(y) * fine) for x, y in (point.split(",") for point in points)]
        draw = pen.ellipse if len(scaled) == 2 else pen.polygon
        draw(scaled, fill=255 if sign == "+" else 0)
    return canvas.reduce(3)


def _sentence(form: str, product: Product, **more: str) -> str:
    words = form.format(
        category=product.category,
        pattern=product.pattern,
        colour=product.colour,
        brand=product.brand,
        **more,
    )
    return words[0].upper() + words[1:]


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
