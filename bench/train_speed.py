"""Seconds per epoch and evaluation, start-up and peak memory, of any model on any data set; JSON out.

Models run at their defaults, width 64, batches of 2048; a configuration gives its data alone.

python bench/train_speed.py examples/tiktok.toml --model freedom --epochs 5
python bench/train_speed.py examples/amazon-baby.toml --model vbpr --random-features 4096 384   # timing only
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mmrec.pipeline.process import settle_process


def main() -> None:
    started = time.perf_counter()
    settle_process()  # as the command line does
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config", type=Path, help="a run's TOML file; foreign features are read, encoders are not run"
    )
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--epochs", type=int, default=5, help="timed epochs after one to warm up")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as on the command line of mmrec"
    )
    parser.add_argument(
        "--random-features", nargs="+", type=int, default=[], metavar="DIM", help="views of noise"
    )
    parser.add_argument("--output", type=Path, help="write the JSON here as well")
    arguments = parser.parse_args()

    if len(arguments.model) == 1:
        results = [measure(arguments, arguments.model[0], started)]
    else:  # a process each: start-up counts from the beginning, and memory is the model's own
        results = [in_own_process(model) for model in arguments.model]
    text = json.dumps({"machine": machine(), "results": results}, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


def in_own_process(model: str) -> dict:
    """Figures of one of several models: this script again, with the same arguments but one model."""
    given = sys.argv[1:]
    start = given.index("--model")
    end = next((n for n in range(start + 1, len(given)) if given[n].startswith("--")), len(given))
    command = [sys.executable, __file__, *given[:start], "--model", model, *given[end:]]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)[
        "results"
    ][0]


def measure(arguments: argparse.Namespace, model: str, started: float) -> dict:
    """Figures of one model; start-up counts from the start of the process to the end of the first
    training step."""
    import torch
    from data_config import data_config

    from mmrec.recsys.evaluation import exact_search, hold_out, mean_accuracy
    from mmrec.recsys.models.base import ClosedFormModel
    from mmrec.recsys.training import fit
    from mmrec.stages.dataset import load_dataset
    from mmrec.stages.train import build_model, training_data

    overrides = [*arguments.set, f"train.model={model}"]
    epochs = arguments.epochs + 1
    overrides += [f"train.epochs={epochs}", f"train.patience={epochs}", f"train.eval_every={epochs}"]
    config = data_config(arguments.config, overrides)
    dataset = load_dataset(config.interactions, None)
    data = training_data(dataset, None, config.train)
    views = (
        random_views(arguments.random_features, data.n_items)
        if arguments.random_features
        else foreign_views(config)
    )
    data = type(data)(data.n_users, data.n_items, data.user_idx, data.item_idx, views).to(data.device)
    recommender = build_model(config.train.model, data, config.train)
    facts = {
        "model": config.train.model,
        "config": str(arguments.config),
        "users": data.n_users,
        "items": data.n_items,
        "interactions": len(data),
        "views": {name: view.dim for name, view in views.items()},
        "dim": config.train.dim,
        "batch_size": config.train.batch_size,
        "options": recommender.options.model_dump(mode="json"),
    }
    if isinstance(recommender, ClosedFormModel):
        before = time.perf_counter()
        recommender.fit()
        facts["fit_seconds"] = round(time.perf_counter() - before, 3)
    else:
        first_step = after_first_call(recommender, "loss")
        history = fit(
            recommender.to(data.device), data, lambda _: {config.train.metric: 0.0}, config.train
        ).history
        facts["start_up_seconds"] = round(first_step[0] - started, 2)
        seconds = [record["seconds"] for record in history[1:]]  # the first epoch warms caches up
        facts["epoch_seconds"] = {
            "median": round(statistics.median(seconds), 4),
            "low": round(min(seconds), 4),
            "high": round(max(seconds), 4),
        }
    vectors = recommender.vectors()
    holdout = hold_out(
        dataset.splits["validation"], dataset.splits["train"], dataset.n_users, dataset.n_items
    )
    times = []
    for _ in range(3):
        before = time.perf_counter()
        mean_accuracy(exact_search(vectors.users, vectors.items), holdout, [5, 10, 20, 50])
        times.append(time.perf_counter() - before)
    facts["evaluation_seconds"] = round(statistics.median(times), 3)
    facts["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if torch.cuda.is_available():
        facts["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return facts


def after_first_call(owner: object, name: str) -> list[float]:
    """The times of the second and later calls of a method, in a list that fills while it runs."""
    times: list[float] = []
    method, calls = getattr(owner, name), iter((False,))

    def timed(*arguments):
        if next(calls, True):
            times.append(time.perf_counter())
        return method(*arguments)

    setattr(owner, name, timed)
    return times


def random_views(dims: list[int], n_items: int) -> dict:
    import torch

    from mmrec.recsys.modalities import Modality

    names = ["visual", "textual", *(f"view-{n}" for n in range(2, len(dims)))]
    generator = torch.Generator().manual_seed(0)
    present = torch.ones(n_items, dtype=torch.bool)
    return {
        name: Modality(torch.randn(n_items, dim, generator=generator), present)
        for name, dim in zip(names, dims, strict=False)
    }


def foreign_views(config) -> dict:
    """The config's foreign features, row = item, without a store."""
    import numpy as np
    import torch

    from mmrec.recsys.modalities import Modality

    views = {}
    for name, file in config.extract.foreign.items():
        values = torch.from_numpy(np.load(file).astype(np.float32))
        views[name] = Modality(values, torch.ones(len(values), dtype=torch.bool))
    return views


def machine() -> dict:
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
