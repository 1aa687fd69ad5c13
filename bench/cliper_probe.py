"""What the vectors of each view tell of each factor of taste, by a linear probe in generated shops.

python bench/cliper_probe.py --output runs/cliper/probe.json

Per shop, view and factor, ridge regression from a view's vectors to the factor's values (one-hot) on two
thirds of the items that have the view, and the share of the others whose true value scores highest.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import torch

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.store import FeatureStore
from mmrec.pipeline.faceted_shop import FACTORS, VIEWS, faceted_products, generate_faceted_shop
from mmrec.stages.extract import extract

COLUMNS = {view: f"text.{view}" for view in VIEWS[:-1]} | {"image": "image.full"}
RIDGE = 1e-2  # against vectors of unit length, centred


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=float, nargs="+", default=[0, 0.5, 1], help="complementarity")
    parser.add_argument("--items", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write JSON here as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    found = {str(point): probe(point, arguments.items, arguments.seed) for point in arguments.points}
    for point, table in found.items():
        print(f"\ncomplementarity {point}\n\n{markdown(table)}")
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def probe(complementarity: float, n_items: int, seed: int) -> dict[str, dict[str, float]]:
    """View -> factor -> accuracy on held-out items."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop = generate_faceted_shop(folder, complementarity, n_items=n_items, n_users=10, seed=seed)
        config = ExtractConfig(encoder="tiny", views="cliper", max_failures=1.0)
        extract(CatalogConfig(items=str(shop.items), image="image"), config, folder / "features")
        store = FeatureStore(folder / "features")
        products = faceted_products(n_items, seed)
        table = {}
        for view, column in COLUMNS.items():
            values, present = store.read(column)
            rows = np.array(values, dtype=np.float64)[present]
            table[view] = {
                factor: accuracy(
                    rows,
                    np.array([names.index(getattr(product, factor)) for product in products])[present],
                    len(names),
                )
                for factor, (names, _) in FACTORS.items()
            }
    return table


def accuracy(rows: np.ndarray, labels: np.ndarray, n_values: int) -> float:
    split = 2 * len(rows) // 3
    rows = rows - rows[:split].mean(axis=0)
    targets = np.eye(n_values)[labels[:split]]
    gram = rows[:split].T @ rows[:split] + RIDGE * np.eye(rows.shape[1])
    weights = np.linalg.solve(gram, rows[:split].T @ (targets - targets.mean(axis=0)))
    scores = rows[split:] @ weights + targets.mean(axis=0)
    return float((scores.argmax(axis=1) == labels[split:]).mean())


def markdown(table: dict[str, dict[str, float]]) -> str:
    lines = [f"| view | {' | '.join(FACTORS)} |", "| --- |" + " ---: |" * len(FACTORS)]
    lines += [f"| {view} | {' | '.join(f'{v:.2f}' for v in row.values())} |" for view, row in table.items()]
    chance = " | ".join(f"{1 / len(values):.2f}" for values, _ in FACTORS.values())
    return "\n".join([*lines, f"| chance | {chance} |"])


if __name__ == "__main__":
    main()
