"""Whether judging features tells what recommenders make of them: `mmrec evaluate --features` beside training.

python bench/judged_features.py shop tiktok posters --output runs/judged
python bench/judged_features.py shop --aligned beit3:runs/shop/encoder --output runs/judged

Every set of views is judged on validation, then VBPR and FREEDOM are trained on it alone: one seed, one
setting, few epochs, enough to rank the sets. What is there already is not done again. Prints Markdown tables
with Spearman's correlation per data set and over all, and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from data_config import data_config
from scipy import stats

from mmrec.pipeline.process import settle_process

EXAMPLES = Path(__file__).parents[1] / "examples"
MODELS = ("vbpr", "freedom")
BUDGET = ["train.epochs=40", "train.patience=5", "train.learning_rate=0.003"]
METRIC = "recall@20"
BEFORE = ("zero-shot", "item-CF", "masked")
AFTER = tuple(f"{model}, {split}" for model in MODELS for split in ("warm", "withheld"))
SPLITS = {"warm": "test", "withheld": "test_among_cold"}


@dataclass(frozen=True, slots=True)
class Stores:
    """The sets of views of one data set."""

    config: Path
    overrides: list[str]
    sets: dict[str, tuple[str, ...]]  # name -> views
    batch_size: int = 2048


def main() -> None:
    settle_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", choices=("shop", "tiktok", "posters"))
    parser.add_argument("--aligned", metavar="ENCODER", help="of the shop: also what `mmrec align` has made")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    output = arguments.output.resolve()
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.data:
        rows[name] = []
        for stores in STORES[name](output / name):
            rows[name] += measure(stores, output / name)
        if name == "shop" and arguments.aligned:
            rows[name] += measure(aligned(output / name, arguments.aligned), output / name)
    facts = {"rows": rows, "correlations": correlations(rows)}
    print(f"{table(rows)}\n\n{correlation_table(facts['correlations'])}")
    (output / "judged.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def shop(output: Path) -> list[Stores]:
    """The demo's shop with what its items were generated from, and random vectors."""
    from mmrec.pipeline.products import random_product
    from mmrec.pipeline.shop import ATTRIBUTES

    config = shop_config(output)
    rng, *_ = np.random.default_rng(0).spawn(3)  # as the shop draws its products
    products = [random_product(rng) for _ in range(1200)]
    rows = [
        np.eye(len(values))[[values.index(getattr(product, name)) for product in products]]
        for name, (values, _) in ATTRIBUTES.items()
    ]
    np.save(output / "attributes.npy", np.concatenate(rows, axis=1).astype(np.float32))
    encoded = ("image.full", "text.title", "text.all")
    sets = {**{view: (view,) for view in encoded}, "three views": encoded, "true attributes": ("attributes",)}
    foreign = {"attributes": output / "attributes.npy", "random": random_rows(output, 1200)}
    return [Stores(config, _foreign(foreign), {"random": ("random",), **sets}, batch_size=512)]


def shop_config(output: Path) -> Path:
    from mmrec.pipeline.demo import CONFIG
    from mmrec.pipeline.shop import generate_shop

    if not (output / "shop" / "interactions.csv").exists():  # it is written last
        generate_shop(output / "shop")
    path = output / "shop.toml"
    names = {"items": "shop/items.csv", "interactions": "shop/interactions.csv"}
    path.write_text(CONFIG.format(name=path.name, **names), encoding="utf-8")
    return path


def aligned(output: Path, encoder: str) -> Stores:
    """The same shop through an encoder that has been pre-trained on it."""
    text = "{title}. {brand}. {category}. {description}"
    overrides = [f"extract.encoder={encoder}", f"extract.joint={text}", "extract.joint_blanked=true"]
    sets = {f"aligned {view}": (view,) for view in ("joint.image", "joint.text", "joint")}
    return Stores(shop_config(output), overrides, sets, batch_size=512)


def tiktok(output: Path) -> list[Stores]:
    config = EXAMPLES / "tiktok.toml"
    ready = {view: Path(path) for view, path in data_config(config, []).extract.foreign.items()}
    foreign = {view: _unit_rows(np.load(path), output / f"{view}.npy") for view, path in ready.items()}
    foreign["random"] = random_rows(output, len(np.load(foreign["visual"], mmap_mode="r")))
    sets = {"random": ("random",), **{view: (view,) for view in ready}, "both": tuple(ready)}
    return [Stores(config, _foreign(foreign), sets)]


def posters(output: Path) -> list[Stores]:
    import polars as pl

    config = EXAMPLES / "movielens-posters.toml"
    read = data_config(config, [])
    assert read.catalog is not None
    foreign = {"random": random_rows(output, len(pl.read_csv(read.catalog.items)))}
    images = [f"image.{view}" for view in read.extract.image_views]
    texts = [f"text.{view}" for view in read.extract.text_views]
    sets = {"random": ("random",), **{view: (view,) for view in (*images, *texts)}}
    return [Stores(config, _foreign(foreign), {**sets, "all views": (*images, *texts)})]


STORES = {"shop": shop, "tiktok": tiktok, "posters": posters}


def random_rows(output: Path, n_items: int) -> Path:
    return _unit_rows(np.random.default_rng(0).normal(size=(n_items, 128)), output / "random.npy")


def _unit_rows(rows: np.ndarray, path: Path) -> Path:
    """Write the rows at length 1: VBPR depends on it, and encoders' views have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    return path


def _foreign(views: Mapping[str, Path]) -> list[str]:
    return [f"extract.foreign.{view}={path}" for view, path in views.items()]


def measure(stores: Stores, output: Path) -> list[dict[str, Any]]:
    """A row per set of views: what judging says, and what the models reach."""
    from mmrec.pipeline.extraction import extract
    from mmrec.pipeline.run import evaluate, judge, train

    store = f"run.features={output / ('features-' + next(iter(stores.sets)).replace(' ', '-'))}"
    extract(data_config(stores.config, [*stores.overrides, store]))
    rows = []
    for name, views in stores.sets.items():
        listed, folder = json.dumps(list(views)), output / name.replace(" ", "-")
        fixed = [*stores.overrides, *BUDGET, f"train.batch_size={stores.batch_size}"]
        fixed += ["evaluate.bootstrap=0", store]
        judged = [f"evaluate.features.views={listed}", f"run.output={folder}"]
        facts = judge(data_config(stores.config, [*fixed, *judged])).facts
        row: dict[str, Any] = {"set": name, **before(facts)}
        for model in MODELS:
            chosen = [f"train.model={model}", f"train.views={listed}", f"run.output={folder / model}"]
            config = data_config(stores.config, [*fixed, *chosen])
            train(config)
            splits = evaluate(config).facts["splits"]
            row |= {f"{model}, {kind}": _mean(splits.get(split)) for kind, split in SPLITS.items()}
        rows.append(row)
        print(f"{output.name}, {name} done", file=sys.stderr, flush=True)
    return rows


def before(facts: Mapping[str, Any]) -> dict[str, float]:
    """Of the last set judged, which is of all views: rankings, and zero-shot after each loss, on average."""
    judged = list(facts["sets"].values())[-1]["protocols"]
    masked = [loss["protocols"]["zero-shot"][METRIC]["mean"] for loss in facts["masked"]]
    figures = (
        judged["zero-shot"][METRIC]["mean"],
        judged["item-cf-20"][METRIC]["mean"],
        float(np.mean(masked)),
    )
    return dict(zip(BEFORE, figures, strict=True))


def _mean(split: Mapping[str, Any] | None) -> float | None:
    return split["metrics"][METRIC]["mean"] if split and split["metrics"] else None


def correlations(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Spearman's rho of every figure before training with every one after it, per data set and over all."""
    groups = {**rows, **({"all": [row for group in rows.values() for row in group]} if len(rows) > 1 else {})}
    found = []
    for name, group in groups.items():
        for first in BEFORE:
            entry: dict[str, Any] = {"data": name, "before": first}
            for last in AFTER:
                pairs = [(row[first], row[last]) for row in group if row[last] is not None]
                entry[last] = float(stats.spearmanr(*zip(*pairs, strict=True))[0]) if len(pairs) > 2 else None
            found.append(entry | {"sets": len(group)})
    return found


def table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = _head(["data", "views", *BEFORE, *AFTER], 2)
    for name, group in rows.items():
        for row in group:
            cells = ["" if row[key] is None else f"{row[key]:.4f}" for key in (*BEFORE, *AFTER)]
            lines.append(f"| {name} | {row['set']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def correlation_table(found: Sequence[Mapping[str, Any]]) -> str:
    lines = _head(["data", "sets", "before", *AFTER], 3)
    for row in found:
        cells = ["" if row[key] is None else f"{row[key]:+.2f}" for key in AFTER]
        lines.append(f"| {row['data']} | {row['sets']} | {row['before']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _head(columns: Sequence[str], words: int) -> list[str]:
    rule = ["---"] * words + ["---:"] * (len(columns) - words)
    return [f"| {' | '.join(columns)} |", f"| {' | '.join(rule)} |"]


if __name__ == "__main__":
    main()
