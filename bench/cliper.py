"""What CLIPER's fusion gains over single views and over concatenation, five recommenders, three seeds.

python bench/cliper.py shop --output runs/cliper                  # from redundant to complementary views
python bench/cliper.py shop --output runs/cliper --points 0 0.5   # a part of it, beside another process
python bench/cliper.py posters --output runs/cliper               # films
python bench/cliper.py shop --output runs/cliper --report         # the tables of what has been run

docs/cliper.md, "Which view carries the taste", says what is compared. Cells are those of `mmrec sweep`, kept
under the output folder: a stopped run goes on where it was. Prints Markdown tables and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmrec.pipeline.process import settle_process
from mmrec.recsys.significance import PairedTest, paired_tests

MODELS = ("freedom", "vbpr", "lattice", "bm3", "mgcn")
POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SEEDS = (0, 1, 2)
CHOICE_SEEDS = (0,)
TEMPERATURES = (0.05, 0.2, 1)
METRIC = "recall@20"
RESAMPLES = 2000
IMAGE, WHOLE = "image.full", "all in one text"
SPLITS = {  # that is reported -> the one that choices are made on; the first is the headline
    "test_among_cold": "validation_among_cold",
    "test": "validation",
}
TITLES = {"test_among_cold": "withheld items among themselves", "test": "warm test split"}
POSTERS = "shared/data/movielens-posters"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One data set: its configuration, its text fields, and the text of them all."""

    name: str
    folder: Path  # of the runs
    sections: str  # TOML: [catalog], [interactions], [extract]
    fields: tuple[str, ...]
    whole: str

    def singles(self) -> dict[str, str]:
        """Label -> its changes: the picture alone, or the picture and one field."""
        views = {"image": [IMAGE], **{field: [IMAGE, f"text.{field}"] for field in self.fields}}
        return {label: f"{{ train.views = {json.dumps(chosen)} }}" for label, chosen in views.items()}

    def similarities(self) -> dict[str, str]:
        return {
            f"similarity {t:g}": self._joined(f'kind = "similarity", temperature = {t:g}')
            for t in TEMPERATURES
        }

    def others(self) -> dict[str, str]:
        whole = f"{{ train.views = {json.dumps([IMAGE, self.whole])} }}"
        return {"concat": self._joined('kind = "concat"'), WHOLE: whole}

    def _joined(self, fusion: str) -> str:
        fields = [f"text.{field}" for field in self.fields]
        views = f"train.views = {json.dumps([IMAGE, *fields])}"
        return f"{{ {views}, fusion = {{ {fusion}, views = {json.dumps(fields)} }} }}"


def main() -> None:
    settle_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=("shop", "posters"))
    parser.add_argument(
        "--points", type=float, nargs="+", default=POINTS, help="complementarity, of the shop"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--posters", type=Path, default=Path("..") / POSTERS, help="folder of the films")
    parser.add_argument("--shop-seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)

    output = arguments.output.resolve()
    if arguments.data == "posters":
        catalogues = [posters(output, arguments.posters.resolve())]
    else:
        catalogues = [shop(output, point, arguments.shop_seed) for point in arguments.points]
    chosen = {}
    for catalogue in catalogues:
        for model in arguments.models:
            chosen[catalogue.name, model] = compare(catalogue, model, arguments.report)
            print(f"{catalogue.name} {model}: {chosen[catalogue.name, model]}", file=sys.stderr, flush=True)
    facts = {
        split: report(
            catalogues, arguments.models, {key: labels[split] for key, labels in chosen.items()}, split
        )
        for split in SPLITS
    }
    for split, found in facts.items():
        print(markdown(found, TITLES[split]), flush=True)
    (output / f"{arguments.data}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def shop(output: Path, complementarity: float, seed: int) -> Catalogue:
    from mmrec.pipeline.faceted_shop import VIEWS, generate_faceted_shop

    name = f"{complementarity:g}"
    folder = output / f"shop-{seed}" / name
    if not (folder / "data" / "interactions.csv").exists():  # it is written last
        generate_faceted_shop(folder / "data", complementarity, seed=seed)
    sections = """
[catalog]
items = "data/items.csv"
image = "image"
[interactions]
path = "data/interactions.csv"
cold_items = 0.2
[extract]
encoder = "tiny"
views = "cliper"
max_failures = 0.05
"""
    return Catalogue(name, folder, sections, VIEWS[:-1], "text.global")


def posters(output: Path, data: Path) -> Catalogue:
    sections = f"""
[catalog]
items = "{data}/items.csv"
image_root = "{data}"
image = "image"
[interactions]
path = "{data}/interactions.csv"
k_core = 5
cold_items = 0.2
[extract]
encoder = "tiny"
[extract.text_views]
title = "The film is called {{title}}."
genres = "A film of the genres {{genres}}."
tags = "A film about {{tags}}."
all = "{{title}}. {{genres}}. {{tags}}."
"""
    return Catalogue("posters", output / "posters", sections, ("title", "genres", "tags"), "text.all")


def compare(catalogue: Catalogue, model: str, only_report: bool) -> dict[str, dict[str, Any]]:
    """Split -> the chosen single view and fusion with their validation figures; trains all that is needed."""
    candidates = {"single": catalogue.singles(), "cliper": catalogue.similarities()}
    changes = {label: change for group in candidates.values() for label, change in group.items()}
    if not only_report:
        run(catalogue, model, changes, CHOICE_SEEDS)
    chosen: dict[str, dict[str, Any]] = {}
    for split, judge in SPLITS.items():
        figures = {label: _figure(catalogue, model, label, judge) for label in changes}
        chosen[split] = {what: max(group, key=figures.__getitem__) for what, group in candidates.items()}
        chosen[split]["validation"] = figures
    wanted = {labels[what] for labels in chosen.values() for what in candidates}
    if not only_report:
        run(catalogue, model, {label: changes[label] for label in sorted(wanted)} | catalogue.others(), SEEDS)
    return chosen


def run(catalogue: Catalogue, model: str, changes: Mapping[str, str], seeds: Sequence[int]) -> None:
    """One `mmrec sweep` of these labels; RuntimeError that names cells that failed."""
    from mmrec.pipeline.sweep import sweep

    table = "\n".join(f"{json.dumps(label)} = {change}" for label, change in changes.items())
    splits = [*SPLITS, *SPLITS.values()]
    path = catalogue.folder / "sweep.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"""{catalogue.sections}
[train] # one budget for every cell
dim = 64
batch_size = 512
learning_rate = 0.005
epochs = 200
patience = 10
[evaluate]
k = [10, 20]
bootstrap = 0
[run]
output = "runs"
[sweep]
seeds = {json.dumps(list(seeds))}
splits = {json.dumps(splits)}
metrics = ["{METRIC}"]
resamples = 10
[[sweep.axis]]
name = "recommender"
key = "train.model"
values = ["{model}"]
[[sweep.axis]]
name = "features"
[sweep.axis.values]
{table}
""",
        encoding="utf-8",
    )
    failed = sweep(path).facts["failed"]
    if failed:
        raise RuntimeError(f"{catalogue.name}, {model}: {failed}")


def _cells(catalogue: Catalogue, model: str, label: str, seeds: Sequence[int]) -> list[Path]:
    from mmrec.pipeline.grid import slug

    return [catalogue.folder / "runs" / "cells" / model / slug(label) / f"seed-{seed}" for seed in seeds]


def _figure(catalogue: Catalogue, model: str, label: str, split: str) -> float:
    """Mean over users and the seeds of choice."""
    values = [_per_user(folder, split)[1] for folder in _cells(catalogue, model, label, CHOICE_SEEDS)]
    return float(np.mean(values))


def _per_user(folder: Path, split: str) -> tuple[pl.Series, np.ndarray]:
    rows = pl.read_parquet(folder / "per_user.parquet").filter(pl.col("split") == split).sort("user_id")
    return rows["user_id"], rows[METRIC].to_numpy()


def report(
    catalogues: Sequence[Catalogue],
    models: Sequence[str],
    chosen: Mapping[tuple[str, str], Mapping[str, Any]],
    split: str,
) -> dict[str, Any]:
    """All figures and tests of one split; users are the same in every cell."""
    rows, users = [], None
    means: dict[tuple[str, str, str], np.ndarray] = {}  # (catalogue, model, condition) -> (users,) over seeds
    for catalogue in catalogues:
        for model in models:
            labels = chosen[catalogue.name, model]
            conditions = {
                "single": labels["single"],
                "concat": "concat",
                "whole": WHOLE,
                "cliper": labels["cliper"],
            }
            row: dict[str, Any] = {"catalogue": catalogue.name, "model": model, "chosen": dict(labels)}
            for condition, label in conditions.items():
                found = [_per_user(folder, split) for folder in _cells(catalogue, model, label, SEEDS)]
                users = found[0][0] if users is None else users
                assert all(ids.equals(users) for ids, _ in found)
                values = np.stack([value for _, value in found])  # (seeds, users)
                means[catalogue.name, model, condition] = values.mean(axis=0)
                deviation = float(values.mean(axis=1).std(ddof=1))
                row[condition] = {"mean": float(values.mean()), "seed_deviation": deviation}
            rows.append(row)
    pairs = [(row, against) for row in rows for against in ("single", "concat", "whole")]
    tests = _tested(means, [(row["catalogue"], row["model"], against) for row, against in pairs])
    for (row, against), test in zip(pairs, tests, strict=True):
        row[f"against {against}"] = asdict(test)
    assert users is not None
    facts: dict[str, Any] = {"split": split, "users": len(users), "rows": rows}
    if len(catalogues) > 1:
        facts["rise"] = _rise(means, [catalogue.name for catalogue in catalogues], models)
    return facts


def _tested(
    means: Mapping[tuple[str, str, str], np.ndarray], pairs: Sequence[tuple[str, str, str]]
) -> list[PairedTest]:
    ours = np.stack([means[name, model, "cliper"] for name, model, _ in pairs])
    theirs = np.stack([means[key] for key in pairs])
    return paired_tests(theirs, ours, RESAMPLES, seed=0)


def _rise(
    means: Mapping[tuple[str, str, str], np.ndarray], names: Sequence[str], models: Sequence[str]
) -> list[dict[str, Any]]:
    """Per recommender: the gain over the best single view at every point, and last less first, by user."""

    def gain(name: str, model: str) -> np.ndarray:
        return means[name, model, "cliper"] - means[name, model, "single"]

    first, last = (np.stack([gain(name, model) for model in models]) for name in (names[0], names[-1]))
    tests = paired_tests(first, last, RESAMPLES, seed=0)
    return [
        {"model": model, "gains": {n: float(gain(n, model).mean()) for n in names}, "rise": asdict(test)}
        for model, test in zip(models, tests, strict=True)
    ]


def markdown(facts: Mapping[str, Any], title: str) -> str:
    columns = ["views", "recommender", "best single view", "", "all in one text", "concat", "CLIPER", ""]
    columns += ["gain over single", "Holm p", "over concat", "Holm p"]
    lines = [f"\n**{title}**, {METRIC}, {facts['users']:,} users\n", *_head(columns, 3)]
    for row in facts["rows"]:
        cells = [row["catalogue"], row["model"], row["chosen"]["single"], _spread(row["single"])]
        cells += [_spread(row["whole"]), _spread(row["concat"]), row["chosen"]["cliper"].split()[1]]
        cells += [_spread(row["cliper"])]
        for against in ("against single", "against concat"):
            test = row[against]
            cells += [_difference(test), f"{test['p_holm']:.2g}"]
        lines.append(f"| {' | '.join(cells)} |")
    if "rise" in facts:
        names = list(facts["rise"][0]["gains"])
        lines += ["\n**Gain over the best single view along the sweep**\n"]
        lines += _head(["recommender", *names, f"at {names[-1]} less at {names[0]}", "Holm p"], 1)
        for row in facts["rise"]:
            gains = [f"{gain:+.4f}" for gain in row["gains"].values()]
            cells = [row["model"], *gains, _difference(row["rise"]), f"{row['rise']['p_holm']:.2g}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _head(columns: Sequence[str], words: int) -> list[str]:
    rule = ["---"] * words + ["---:"] * (len(columns) - words)
    return [f"| {' | '.join(columns)} |", f"| {' | '.join(rule)} |"]


def _spread(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.4f} ± {figure['seed_deviation']:.4f}"


def _difference(test: Mapping[str, float]) -> str:
    return f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]"


if __name__ == "__main__":
    main()
