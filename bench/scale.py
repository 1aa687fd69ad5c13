"""A million users and items, and the neighbours of 200,000 items: minutes and peak memory; JSON out.

python bench/scale.py lightgcn --users 1000000 --items 1000000 --interactions 20000000
python bench/scale.py neighbours --items 200000 --dim 512
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mmrec.pipeline.process import settle_process


def main() -> None:
    settle_process()  # as the command line does
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    graph = commands.add_parser("lightgcn", help="prepare, train an epoch, evaluate some users")
    graph.add_argument("--users", type=int, default=1_000_000)
    graph.add_argument("--items", type=int, default=1_000_000)
    graph.add_argument("--interactions", type=int, default=20_000_000)
    graph.add_argument("--evaluated", type=int, default=10_000, help="users to evaluate")
    graph.add_argument("--batch-size", type=int, default=1_048_576)
    graph.add_argument("--layers", type=int, default=3)
    graph.set_defaults(measure=lightgcn)
    knn = commands.add_parser("neighbours", help="the cosine graph of random vectors in clusters")
    knn.add_argument("--items", type=int, default=200_000)
    knn.add_argument("--dim", type=int, default=512)
    knn.add_argument("--k", type=int, default=10)
    knn.add_argument("--memory-mb", type=int, default=512)
    knn.set_defaults(measure=neighbours)
    arguments = parser.parse_args()
    facts = arguments.measure(arguments)
    facts.setdefault("peak_memory_gib", peak_memory())
    facts |= {"load_average": [round(load, 2) for load in os.getloadavg()], "cores": os.cpu_count()}
    print(json.dumps(facts, indent=2))


def peak_memory() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


@contextmanager
def timed(facts: dict, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    facts[name] = round(time.perf_counter() - started, 1)
    print(f"{name} {facts[name]}", flush=True, file=sys.stderr)


def lightgcn(arguments: argparse.Namespace) -> dict:
    """Seconds of every step from the log to the metrics of `evaluated` users."""
    import numpy as np
    import polars as pl
    import torch

    from mmrec.recsys.config import InteractionsConfig, TrainConfig
    from mmrec.recsys.evaluation import exact_search, hold_out, mean_accuracy
    from mmrec.recsys.interactions import prepare
    from mmrec.recsys.models.base import TrainingData
    from mmrec.recsys.models.lightgcn import LightGCN
    from mmrec.recsys.pairs import Pairs
    from mmrec.recsys.training import fit

    facts: dict = {"users": arguments.users, "items": arguments.items, "batch_size": arguments.batch_size}
    with timed(facts, "generate_seconds"):
        log = random_log(arguments.users, arguments.items, arguments.interactions)
    with timed(facts, "prepare_seconds"):
        config = InteractionsConfig(path="generated", ratios=(0.9, 0.05, 0.05))
        dataset = prepare(log, pl.Series("item_id", np.arange(arguments.items)), config)
    del log
    train = dataset.splits["train"]
    facts["train_interactions"] = len(train)
    data = TrainingData(
        dataset.n_users, dataset.n_items, torch.from_numpy(train.user_idx), torch.from_numpy(train.item_idx)
    )
    options = LightGCN.Options(n_layers=arguments.layers)
    settings = TrainConfig(model="lightgcn", batch_size=arguments.batch_size, epochs=1)
    with timed(facts, "build_seconds"):
        torch.manual_seed(0)
        model = LightGCN(data, settings.dim, options)
    with timed(facts, "fit_seconds"):
        result = fit(model, data, lambda _: {settings.metric: 0.0}, settings)
    facts["epoch_seconds"] = round(result.history[0]["seconds"], 1)
    facts["loss"] = round(result.history[0]["loss"], 4)
    with timed(facts, "vectors_seconds"):
        vectors = model.vectors()
    with timed(facts, "evaluate_seconds"):
        chosen = np.random.default_rng(0).choice(dataset.n_users, arguments.evaluated, replace=False)
        test = dataset.splits["test"]
        kept = np.isin(test.user_idx, chosen)
        positives = Pairs(test.user_idx[kept], test.item_idx[kept])
        holdout = hold_out(positives, train, dataset.n_users, dataset.n_items)
        means = mean_accuracy(exact_search(vectors.users, vectors.items), holdout, [20])
    facts |= {"evaluated_users": holdout.n_users, "recall@20": round(means["recall@20"], 6)}
    return facts


def random_log(n_users: int, n_items: int, n: int):
    """`n` interactions or a little less (duplicates go), with popular items and active users."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    users = (n_users * rng.random(n) ** 1.5).astype(np.int64)
    items = rng.permutation(n_items)[(n_items * rng.random(n) ** 2).astype(np.int64)]
    return pl.DataFrame({"user_id": users, "item_id": items})


def neighbours(arguments: argparse.Namespace) -> dict:
    """Seconds of the exact search; its edges are compared with float64 ones for a sample of items."""
    import torch
    import torch.nn.functional as F

    from mmrec.recsys.knn import nearest_items
    from mmrec.recsys.modalities import Modality

    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(1000, arguments.dim, generator=generator)
    values = torch.randn(arguments.items, arguments.dim, generator=generator)
    values += centres[torch.randint(1000, (arguments.items,), generator=generator)]
    facts: dict = {"items": arguments.items, "dim": arguments.dim, "k": arguments.k}
    view = Modality(values, torch.ones(arguments.items, dtype=torch.bool))
    with timed(facts, "search_seconds"):
        found, _ = nearest_items(view, arguments.k, memory_mb=arguments.memory_mb)
    facts["peak_memory_gib"] = peak_memory()  # what checks the result takes more
    sample = torch.randperm(arguments.items, generator=generator)[:200]
    unit = F.normalize(values, dim=1)
    exact = torch.cat(
        [(unit[rows].double() @ unit.double().T).topk(arguments.k).indices for rows in sample.split(50)]
    )
    same = (found[sample].unsqueeze(2) == exact.unsqueeze(1)).any(dim=2)
    facts["edge_recall"] = round(same.float().mean().item(), 5)
    return facts


if __name__ == "__main__":
    main()
