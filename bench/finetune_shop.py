"""The generated shop with titles in words that the tiny CLIP has never read: something to teach it.

    python bench/finetune_shop.py --output runs/german-shop
    mmrec finetune -c runs/german-shop/finetune.toml

The tiny CLIP was trained on products of the shop's own generator, so it knows the English texts: of 115
held-out pictures, 0.88 find their title at once. Pictures and items are those of `mmrec demo`; the column
`titel` is the English title word by word in German. Brands keep their names.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import polars as pl

from mmrec.pipeline.products import COLOURS, OUTLINES, PATTERNS
from mmrec.pipeline.shop import generate_shop

GERMAN = {
    **{"mug": "Becher", "lamp": "Leuchte", "shirt": "Hemd", "bag": "Tasche", "teddy": "Plüschtier"},
    **{"chair": "Stuhl", "vase": "Blumenglas", "hat": "Mütze", "bottle": "Flasche", "cushion": "Kissen"},
    **{"umbrella": "Schirm", "boot": "Stiefel"},
    **{"plain": "schlicht", "striped": "gestreift", "pinstriped": "liniert", "dotted": "gepunktet"},
    **{"checked": "kariert", "zigzag": "gezackt", "starry": "besternt", "two-tone": "zweifarbig"},
    **{
        "red": "rot",
        "orange": "apricot",
        "yellow": "gelb",
        "green": "grün",
        "teal": "petrol",
        "blue": "blau",
    },
    **{"navy": "marine", "purple": "violett", "pink": "rosa", "brown": "braun", "black": "schwarz"},
    **{"white": "weiß", "grey": "grau", "beige": "sand", "by": "von"},
}
CONFIG = """\
[catalog]
items = "shop/items.csv"
image = "image"

[finetune]
start = "tiny"
text = "{titel}"
learning_rate = 5e-4
epochs = 30
batch_size = 128
patience = 10

[extract]
encoder = "open_clip:tiny/run/encoder"
text_views = { titel = "{titel}" }
max_failures = 0.05

[run]
output = "run"
"""


def in_german(title: str | None) -> str | None:
    """The title word by word; None stays."""
    if title is None:
        return None
    return re.sub(r"[\w-]+", lambda word: GERMAN.get(word[0].lower(), word[0]), title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    assert {*COLOURS, *OUTLINES, *PATTERNS} <= set(GERMAN)
    shop = generate_shop(options.output / "shop")
    items = pl.read_csv(shop.items)
    titles = [in_german(title) for title in items["title"]]
    items.with_columns(pl.Series("titel", titles, pl.String)).write_csv(shop.items)
    (options.output / "finetune.toml").write_text(CONFIG, encoding="utf-8")
    print(f"{len(items)} items, such as {items['title'][0]!r}, {titles[0]!r}")


if __name__ == "__main__":
    main()
