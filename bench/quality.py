"""Test quality of models tuned on validation, beside the same models at MMRec's settings; three seeds each.

python bench/quality.py examples/tiktok.toml --models lightgcn freedom mgcn --trials 12 --output runs/quality

Every model is tuned by `mmrec tune` (validation only), then trained with each seed, with the best setting
and once with the first value of every list of MMRec's configuration; the test splits are read after that.
Of the configuration's [train] nothing is taken.
What is there already is not done again. Prints a Markdown table and writes quality.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from data_config import data_config

from mmrec.pipeline.process import settle_process

# First values of MMRec's lists (GRCN's learning rate of 1 diverges there too, so its working one is taken).
# Models whose L2 term differs are trained as released, where these weights mean what they mean in MMRec.
MMREC: dict[str, dict[str, Any]] = {
    "bpr": {"reg_weight": 2.0, "as_released": True},
    "lightgcn": {"n_layers": 1, "reg_weight": 0.01, "as_released": True},
    "vbpr": {"reg_weight": 2.0, "as_released": True},
    "freedom": {"edge_dropout": 0.8, "reg_weight": 0.0, "as_released": True},
    "bm3": {"n_layers": 1, "dropout": 0.3, "reg_weight": 0.1, "as_released": True},
    "mgcn": {"contrast_weight": 0.001, "as_released": True},
    "lattice": {"reg_weight": 0.0, "as_released": True},
    "slmrec": {"ssl_temperature": 0.1, "ssl_weight": 0.01, "as_released": True},
    "grcn": {"reg_weight": 0.1, "as_released": True},
    "mmgcn": {"reg_weight": 0.0, "as_released": True},
    "mmgcl": {"as_released": True},
}
LEARNING_RATES = {"lattice": 1e-4, "mmgcn": 1e-2, "grcn": 1e-4, "slmrec": 1e-1}  # where not 0.001
COLUMNS = {"test": "test", "test_cold": "cold", "test_among_cold": "among cold"}


def main() -> None:
    settle_process()  # as the command line does
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--trials", type=int, default=30, help="of the search, per model")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--space", type=Path, help="TOML: a table per model with settings to search")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--no-mmrec", action="store_true", help="leave MMRec's settings out")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    spaces = tomllib.loads(arguments.space.read_text(encoding="utf-8")) if arguments.space else {}
    rows = []
    for model in arguments.models:
        rows += measure(model, spaces.get(model), arguments)
        report = {"config": str(arguments.config), "trials": arguments.trials, "rows": rows}
        (arguments.output / "quality.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
        print(markdown(rows[-2:] if model in MMREC else rows[-1:]), flush=True)
    print(markdown(rows))


def measure(model: str, space: dict[str, Any] | None, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The row of the tuned model and, where MMRec has it, the row at MMRec's settings."""
    from mmrec.pipeline.extraction import extract
    from mmrec.pipeline.tuning import tune, with_settings
    from mmrec.recsys.grids import GRIDS

    def configure(folder: str, settings: list[str]) -> Any:
        paths = [f"run.output={arguments.output / folder}", f"run.features={arguments.output / 'features'}"]
        return data_config(arguments.config, [*arguments.set, *paths, *settings, f"train.model={model}"])

    rows, started = [], time.perf_counter()
    first = configure("features-run", [])
    if first.catalog is not None or first.extract.foreign:
        extract(first)
    chosen: dict[str, Any] = {}
    if space or GRIDS[model]:
        config = configure(f"{model}-tune", [])
        wanted = {"trials": arguments.trials, "workers": arguments.workers, "space": space}
        config = config.model_copy(update={"tune": config.tune.model_copy(update=wanted)})
        chosen = tune(config).facts["best"]["settings"]
    seconds = time.perf_counter() - started

    def tuned(seed: int) -> Any:
        return with_settings(configure(f"{model}-tuned-{seed}", [f"train.seed={seed}"]), chosen)

    rows.append(row(model, "tuned", chosen, [judged(tuned(seed)) for seed in arguments.seeds], seconds))
    if model in MMREC and not arguments.no_mmrec:
        rate = [f"train.learning_rate={LEARNING_RATES[model]}"] if model in LEARNING_RATES else []
        settings = {f"train.{model}.{key}": value for key, value in MMREC[model].items()}

        def released(seed: int) -> Any:
            config = configure(f"{model}-mmrec-{seed}", [*rate, f"train.seed={seed}"])
            return with_settings(config, settings)

        rows.append(row(model, "MMRec", settings, [judged(released(seed)) for seed in arguments.seeds], 0.0))
    return rows


def judged(config: Any) -> dict[str, Any]:
    """Train and evaluate; what `evaluation.json` says of the splits, and the validation figure."""
    from mmrec.pipeline.run import evaluate, train
    from mmrec.recsys.errors import DivergedError

    try:
        outcome = train(config)
    except DivergedError as error:
        return {"diverged": str(error)}
    evaluate(config)
    evaluation = json.loads((config.output / "evaluation.json").read_text(encoding="utf-8"))
    metrics = json.loads((config.output / "model" / "metrics.json").read_text(encoding="utf-8"))
    figures = {
        name: split["metrics"]["recall@20"]["mean"]
        for name, split in evaluation["splits"].items()
        if name in COLUMNS and split["metrics"]
    }
    trained = outcome.facts["model"] if outcome else {}
    return figures | {
        "validation": metrics["validation"]["recall@20"],
        "seconds": trained.get("seconds", 0.0),
    }


def row(
    model: str, kind: str, settings: dict[str, Any], runs: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    return {"model": model, "kind": kind, "settings": settings, "runs": runs, "tune_seconds": seconds}


def markdown(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds of recall@20."""
    names = ["validation", *COLUMNS]
    shown = [name for name in names if any(name in run for row in rows for run in row["runs"])]
    lines = [
        f"| model | settings | {' | '.join(COLUMNS.get(name, name) for name in shown)} |",
        "| --- | --- |" + " --- |" * len(shown),
    ]
    for entry in rows:
        cells = [spread([run[name] for run in entry["runs"] if name in run]) for name in shown]
        lines.append(f"| {entry['model']} | {entry['kind']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    if not values:
        return "diverged"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}"


if __name__ == "__main__":
    main()
