"""Average precision with which `mmrec inspect --similarity` ranks planted faults first; JSON out.

python bench/similarity_faults.py --seeds 5
python bench/similarity_faults.py --share 0.01 --items 5000 --views cliper

Per seed, a generated shop gets one kind of fault in a share of its items, is extracted, and is ranked by
`mismatch`, which knows nothing of them. "pictures": two items have each other's picture. "texts": two
items have each other's title, brand, category and description. "titles": each other's title alone.
Beside it, for comparison, the rankings by mean cosine and by mean contrast.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.store import FeatureStore
from mmrec.pipeline.shop import generate_shop
from mmrec.stages.extract import extract
from mmrec.stages.similarity import similarity_report

TEXTS = ("title", "brand", "category", "description")
FAULTS = {"pictures": ("image",), "texts": TEXTS, "titles": ("title",)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="shops per kind of fault")
    parser.add_argument("--items", type=int, default=1200)
    parser.add_argument("--share", type=float, default=0.03, help="of the items that get a fault")
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--views", default="cliper", choices=("cliper", "cliper-as-released"))
    parser.add_argument("--output", type=Path, help="write the JSON here as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)

    settings = {key: getattr(arguments, key) for key in ("seeds", "items", "share", "encoder", "views")}
    results = {fault: measure(fault, arguments) for fault in FAULTS}
    text = json.dumps({"settings": settings, "average_precision": results}, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


def measure(fault: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Average precision of each ranking: mean over the shops, and the least."""
    runs = [one_shop(fault, seed, arguments) for seed in range(arguments.seeds)]
    return {
        ranking: {
            "mean": round(statistics.mean(run[ranking] for run in runs), 4),
            "least": round(min(run[ranking] for run in runs), 4),
        }
        for ranking in runs[0]
    }


def one_shop(fault: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        shop = generate_shop(Path(folder), n_items=arguments.items, n_users=10, seed=seed)
        faulty = plant(shop.items, FAULTS[fault], arguments.share, seed)
        config = ExtractConfig(encoder=arguments.encoder, views=arguments.views, max_failures=1.0)
        extract(CatalogConfig(items=str(shop.items), image="image"), config, Path(folder) / "features")
        items = similarity_report(FeatureStore(Path(folder) / "features")).items
    rankings = {
        "mismatch": items["mismatch"],
        "mean cosine": -items.select(pl.mean_horizontal(pl.selectors.starts_with("similarity."))).to_series(),
        "mean contrast": -items.select(pl.mean_horizontal(pl.selectors.starts_with("contrast."))).to_series(),
    }
    planted = items["item_id"].is_in(faulty).to_numpy()
    return {name: average_precision(scores.to_numpy(), planted) for name, scores in rankings.items()}


def plant(path: Path, columns: tuple[str, ...], share: float, seed: int) -> list[str]:
    """Swap `columns` between random pairs of items that have them; returns the ids of the swapped items."""
    items = pl.read_csv(path)
    rng = np.random.default_rng([seed, 1])
    whole = np.flatnonzero(
        items.select(pl.all_horizontal(pl.col(columns).is_not_null())).to_series().to_numpy()
    )
    n_pairs = round(share * len(items) / 2)
    first, second = rng.permutation(whole)[: 2 * n_pairs].reshape(2, -1)
    rows = np.arange(len(items))
    rows[first], rows[second] = second, first
    items.with_columns(items.select(columns)[rows]).write_csv(path)
    return items["item_id"].gather(np.concatenate([first, second])).to_list()


def average_precision(scores: np.ndarray, planted: np.ndarray) -> float:
    """Of the ranking by falling score; an item that cannot be scored (no readable picture) is never found."""
    ranked = np.argsort(-scores, kind="stable")  # NaN last
    hits = planted[ranked] & ~np.isnan(scores[ranked])
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / planted.sum())


if __name__ == "__main__":
    main()
