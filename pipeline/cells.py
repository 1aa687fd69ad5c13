"""One cell of a sweep, in a process of its own: its memory is its own, and its failure stays there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ..features.errors import InputError as FeaturesInputError
from ..features.files import digest_json, write_json
from ..features.store import FeatureStore
from ..recsys.errors import InputError
from ..recsys.interactions import Dataset
from ..stages import evaluate, index
from ..stages.lineage import read_lineage
from ..stages.train import train_lineage
from .config import Config, write_config
from .publishing import split_log
from .resources import peak_memory
from .run import measure, open_store, train_and_index
from .workers import in_processes

ACCOUNT = "cell.json"  # written last: a cell without it is not finished


def cell_key(config: Config, dataset: Dataset, store: FeatureStore | None) -> str:
    """A digest of all that the figures of a cell come from."""
    baselines = {name: config.train.options(name) for name in config.evaluate.baselines}
    return digest_json(
        [
            train_lineage(dataset, store, config.train, config.fusion),
            config.index.model_dump(mode="json", exclude={"device"}),
            config.evaluate.model_dump(mode="json", exclude={"memory_mb", "features"}),
            baselines,
            index.CODE_VERSION,
            evaluate.CODE_VERSION,
        ]
    )


def account_of(folder: Path, key: str) -> dict[str, Any] | None:
    """The account of the finished cell in `folder`; None where there is none of this `key`."""
    account = _read(folder)
    measured = read_lineage(folder / "evaluation.json", "provenance", "lineage")
    own = account is not None and account.get("key") == key and account.get("evaluation") == measured
    return account if own and measured is not None else None


def run_cell(config: Config, key: str) -> str | None:
    """Train, index and evaluate in a process of its own; why that failed, or None."""
    try:
        in_processes(_work, (config, key), 1)
    except (FeaturesInputError, InputError, OSError) as error:
        return str(error)
    return None


def _work(config: Config, key: str) -> None:
    started = time.perf_counter()
    store = open_store(config)
    dataset = split_log(config, store).dataset
    report, _ = train_and_index(config, store, dataset)
    measure(config, store, dataset)
    write_config(config, config.output)
    facts = _json(config.output / "model" / "config.json")
    metrics = _json(config.output / "model" / "metrics.json")
    earlier = _read(config.output) if report.up_to_date else None
    cost = {"seconds": time.perf_counter() - started, **peak_memory()}
    if report.up_to_date:  # this process has not trained
        cost = (earlier or {}).get("cost", {"seconds": None, "peak_memory_mb": None})
    account = {
        "key": key,
        "evaluation": read_lineage(config.output / "evaluation.json", "provenance", "lineage"),
        "epochs": len(metrics["history"]),
        "best_epoch": metrics["best_epoch"],
        "train_seconds": sum(record["seconds"] for record in metrics["history"]),
        "parameters": facts.get("parameters"),
        "cost": cost,
    }
    write_json(config.output / ACCOUNT, account)


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        return _json(folder / ACCOUNT)
    except (FileNotFoundError, ValueError):
        return None


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
