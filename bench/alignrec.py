"""AlignRec beside itself without one of its alignments, FREEDOM and LightGCN; equal search, three seeds each.

python bench/alignrec.py examples/tiktok.toml --output runs/alignrec
python bench/alignrec.py examples/tiktok.toml --output runs/alignrec --report # tables of what has run

Every variant tries as many settings of bench/quality_space.toml, chosen at random; those of the AlignRecs are
the same settings, with a term switched off or the features trained. The best on validation is trained with
each seed, and its test splits are read after that. Of the configuration's [train] nothing is taken. What is
there already is not done again. Prints Markdown tables and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from data_config import data_config

from mmrec.pipeline.config import Config
from mmrec.pipeline.process import settle_process
from mmrec.recsys.significance import paired_tests

FULL = "AlignRec"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> model, what its settings are changed to
    FULL: ("alignrec", {}),
    "no CCA": ("alignrec", {"cca_weight": 0.0}),
    "no UIA": ("alignrec", {"uia_weight": 0.0}),
    "no REG": ("alignrec", {"similarity_weight": 0.0}),
    "trained features": ("alignrec", {"train_features": True}),
    "FREEDOM": ("freedom", {}),
    "LightGCN": ("lightgcn", {}),
}
SEEDS = (0, 1, 2)  # trials have the first one
SPACE = Path(__file__).with_name("quality_space.toml")
SPLITS = {"test": "warm test split", "test_cold": "withheld items among all"}
SPLITS["test_among_cold"] = "withheld items among themselves"
METRIC = "recall@20"
RESAMPLES = 2000


def main() -> None:
    settle_process()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--trials", type=int, default=6, help="settings to try, per variant")
    parser.add_argument("--dim", type=int, default=64, help="width of all")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    output = arguments.output / arguments.config.stem
    if not arguments.report:
        extract_features(arguments.config, output)
        for variant in arguments.variants:
            measure(variant, arguments, output)
            print(f"{arguments.config.stem}: {variant} done", file=sys.stderr, flush=True)
    facts = report(output, arguments.variants, arguments.trials)
    print("\n\n".join([choices(facts), *(markdown(facts, split) for split in facts["splits"])]))
    (output / "alignrec.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def extract_features(path: Path, output: Path) -> None:
    from mmrec.pipeline.extraction import extract

    config = data_config(path, [f"run.features={output / 'features'}"])
    if config.catalog is not None or config.extract.foreign:
        extract(config)


def settings(variant: str, trials: int) -> list[dict[str, Any]]:
    """The settings that a variant tries: of every list all values about equally often, matched at random.

    The n-th of all AlignRecs differ in nothing but the variant. Weights of 0, another variant, are left out.
    The learning rate is the largest of its list, which takes the fewest epochs.
    """
    from mmrec.pipeline.space import Choices, parse_space

    model, changes = VARIANTS[variant]
    space, _ = parse_space(tomllib.loads(SPACE.read_text(encoding="utf-8"))[model])
    rng = np.random.default_rng(0)
    columns = {}
    for key, choices in space.items():
        assert isinstance(choices, Choices)
        off = model == "alignrec" and key.endswith("_weight")
        values = [value for value in choices.values if not (off and value == 0)]
        values = [max(values)] if key == "train.learning_rate" else values
        columns[key] = [values[n % len(values)] for n in rng.permutation(trials)]
    columns.pop("train.dim", None)
    fixed = {f"train.{model}.{key}": value for key, value in changes.items()}
    return [{key: column[n] for key, column in columns.items()} | fixed for n in range(trials)]


def measure(variant: str, arguments: argparse.Namespace, output: Path) -> None:
    """Trials, then the seeds of the best one and their evaluation."""
    from mmrec.pipeline.run import evaluate, train
    from mmrec.pipeline.tuning import with_settings

    model, _ = VARIANTS[variant]

    def configure(folder: Path, chosen: Mapping[str, Any], seed: int) -> Config:
        paths = [f"run.output={folder}", f"run.features={output / 'features'}", "evaluate.bootstrap=0"]
        budget = [f"train.{key}={getattr(arguments, key)}" for key in ("dim", "epochs", "patience")]
        fixed = [*paths, *budget, f"train.model={model}", f"train.seed={seed}", *arguments.set]
        return with_settings(data_config(arguments.config, fixed), chosen)

    tried = settings(variant, arguments.trials)
    for number, chosen in enumerate(tried):
        train(configure(_trial(output, variant, number), chosen, SEEDS[0]))
    best = _best(output, variant, arguments.trials)
    for seed, folder in zip(SEEDS, _seeds(output, variant, best), strict=True):
        config = configure(folder, tried[best], seed)
        train(config)
        evaluate(config)


def _trial(output: Path, variant: str, number: int) -> Path:
    return output / variant / f"trial-{number}"


def _seeds(output: Path, variant: str, best: int) -> list[Path]:
    """The run of each seed; the first one's is the trial."""
    others = [output / variant / f"trial-{best}-seed-{seed}" for seed in SEEDS[1:]]
    return [_trial(output, variant, best), *others]


def _validation(folder: Path) -> float:
    metrics = json.loads((folder / "model" / "metrics.json").read_text(encoding="utf-8"))
    return metrics["validation"][METRIC]


def _best(output: Path, variant: str, trials: int) -> int:
    return int(np.argmax([_validation(_trial(output, variant, number)) for number in range(trials)]))


def _per_user(folder: Path) -> dict[str, pl.DataFrame]:
    """Split -> user_id and METRIC, ordered by user."""
    rows = pl.read_parquet(folder / "per_user.parquet").sort("user_id")
    return {split: rows.filter(pl.col("split") == split).select("user_id", METRIC) for split in SPLITS}


def report(output: Path, variants: Sequence[str], trials: int) -> dict[str, Any]:
    """All figures, and per split the tests of every variant against full AlignRec, by user over the seeds."""
    facts: dict[str, Any] = {"variants": {}, "splits": {}}
    users: dict[str, dict[str, np.ndarray]] = {}  # split -> variant -> (users,) means over seeds
    for variant in variants:
        values = [_validation(_trial(output, variant, number)) for number in range(trials)]
        best = int(np.argmax(values))
        folders = _seeds(output, variant, best)
        facts["variants"][variant] = {
            "settings": settings(variant, trials)[best],
            "trials": values,
            "validation": _spread([_validation(folder) for folder in folders]),
        }
        found = [_per_user(folder) for folder in folders]
        for split in SPLITS:
            rows = [run[split] for run in found]
            if not len(rows[0]):
                continue
            assert all(row["user_id"].equals(rows[0]["user_id"]) for row in rows)
            each = np.stack([row[METRIC].to_numpy() for row in rows])  # (seeds, users)
            users.setdefault(split, {})[variant] = each.mean(axis=0)
            facts["variants"][variant][split] = _spread(each.mean(axis=1).tolist())
    for split, means in users.items():
        others = [variant for variant in variants if variant != FULL]
        reference = np.stack([means[FULL]] * len(others))
        tests = paired_tests(reference, np.stack([means[variant] for variant in others]), RESAMPLES, seed=0)
        tested = {variant: asdict(test) for variant, test in zip(others, tests, strict=True)}
        facts["splits"][split] = {"users": len(means[FULL]), "against full": tested}
    return facts


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation over the seeds."""
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1))}


def choices(facts: Mapping[str, Any]) -> str:
    """What validation chose, and what a term does at the same settings."""
    full = np.array(facts["variants"][FULL]["trials"])
    lines = _head(["variant", "chosen", "validation", "at the same settings"], 2)
    for variant, row in facts["variants"].items():
        chosen = ", ".join(_setting(key, value) for key, value in row["settings"].items())
        paired = VARIANTS[variant][0] == "alignrec" and variant != FULL
        gains = np.array(row["trials"]) - full
        same = f"{gains.mean():+.4f} ({(gains > 0).sum()} of {len(gains)} better)" if paired else ""
        lines.append(f"| {variant} | {chosen} | {_shown(row['validation'])} | {same} |")
    return "\n".join(lines)


def _setting(key: str, value: Any) -> str:
    name = key.rpartition(".")[2].replace("_", " ")
    if isinstance(value, bool):
        return name
    return value if isinstance(value, str) else f"{name} {value:g}"


def markdown(facts: Mapping[str, Any], split: str) -> str:
    found = facts["splits"][split]
    lines = [f"**{SPLITS[split]}**, {METRIC}, {found['users']:,} users\n"]
    lines += _head(["variant", METRIC, "less full AlignRec", "Holm p"], 1)
    for variant, row in facts["variants"].items():
        cells = [variant, _shown(row[split]), "", ""]
        if variant != FULL:
            test = found["against full"][variant]
            cells[2] = f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]"
            cells[3] = f"{test['p_holm']:.2g}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _head(columns: Sequence[str], words: int) -> list[str]:
    rule = ["---"] * words + ["---:"] * (len(columns) - words)
    return [f"| {' | '.join(columns)} |", f"| {' | '.join(rule)} |"]


def _shown(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.4f} ± {figure['deviation']:.4f}"


if __name__ == "__main__":
    main()
