"""The generated shop with titles in words that the tiny CLIP has never read: something to teach it.

    python bench/finetune_shop.py --output runs/german-shop
    mmrec finetune -c runs/german-shop/finetune.toml
    mmrec sweep runs/german-shop/german.toml    # frozen, fine-tuned and end-to-end features, warm and cold
    mmrec sweep runs/german-shop/english.toml   # the same, of the texts that it knows

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
COMPARE = """\
# Frozen, fine-tuned and end-to-end features of one encoder in two recommenders; one budget for every cell.

[catalog]
items = "shop/items.csv"
image = "image"

[interactions]
path = "shop/interactions.csv"
cold_items = 0.2

[extract]
encoder = "tiny"
text_views = {{ text = "{text}" }}
max_failures = 0.05

[train] # chosen on validation with frozen features
dim = 64
learning_rate = 3e-3
batch_size = 1024
epochs = 60
patience = 60

[train.end_to_end]
learning_rate = 1e-4
warmup_epochs = 56 # the recommender first learns to read the features
encode = "positives"
micro_batch = 128

[evaluate]
k = [10, 20]

[run]
output = "{name}"

[sweep]
seeds = [0, 1, 2]
splits = ["test", "test_cold", "test_among_cold"]
metrics = ["recall@20", "ndcg@20"]
compare = ["frozen", "fine-tuned"]

[[sweep.axis]]
name = "recommender"
[sweep.axis.values]
"vbpr" = {{ train.model = "vbpr", train.vbpr.reg_weight = 1e-3 }}
"lattice" = {{ train.model = "lattice", train.lattice.train_graph = "every-batch" }}

[[sweep.axis]]
name = "encoder"
[sweep.axis.values."frozen"]
[sweep.axis.values."fine-tuned"]
finetune = {tuning}
run.encoder = "{name}/encoder"
extract.encoder = "open_clip:tiny/{name}/encoder"
[sweep.axis.values."end to end"]
train.encoder = "end-to-end"
"""
TEXTS = {  # name -> text, learning rate of fine-tuning
    "german": ("{titel}", 5e-4),
    "english": ("{title}. {brand}. {category}. {description}", 3e-4),
}


def comparison(name: str) -> str:
    """The sweep over the texts of this name."""
    text, rate = TEXTS[name]
    budget = f"learning_rate = {rate}, epochs = 30, batch_size = 128, patience = 10"
    tuning = f'{{ start = "tiny", text = "{text}", {budget} }}'
    return COMPARE.format(name=name, text=text, tuning=tuning)


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
    for name in TEXTS:
        (options.output / f"{name}.toml").write_text(comparison(name), encoding="utf-8")
    print(f"{len(items)} items, such as {items['title'][0]!r}, {titles[0]!r}")


if __name__ == "__main__":
    main()
