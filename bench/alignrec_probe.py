"""What each term of AlignRec's loss weighs in training and what it moves, from models that have been trained.

python bench/alignrec_probe.py runs/full runs/no-cca --output runs/probe.json

Folders of `mmrec train` or bench/alignrec.py with model alignrec. Of the first one: every term's value, share
of the gradients and cosine with BPR's gradient, at the start and at the kept epoch, as means over batches. Of
all: what the vectors are like. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from mmrec.pipeline.config import Config, load_config
from mmrec.pipeline.run import open_store
from mmrec.recsys.models.alignrec import AlignRec
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.sampling import NegativeSampler
from mmrec.stages.dataset import load_dataset
from mmrec.stages.train import build_model, training_data

GROUPS = {"user ids": ("user.",), "item ids": ("item.",), "gate": ("content.",)}  # parameters by their names
SAMPLE = 2048  # users and items that figures are means over
PAIRS = 100_000
LIST = 20

Triples = tuple[Tensor, Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--output", type=Path, help="write JSON here as well")
    arguments = parser.parse_args()
    facts: dict[str, Any] = {"runs": {}}
    for run in arguments.runs:
        config = load_config(run / "config.toml")
        data = training_data(load_dataset(config.interactions, open_store(config)), open_store(config),
                             config.train, config.fusion)  # fmt: skip
        model = build_model("alignrec", data, config.train)
        assert isinstance(model, AlignRec)
        triples = list(batches(data, config, arguments.batches))
        start = terms(model, triples)
        model.load_state_dict(load_file(run / "model" / "model.safetensors"))
        if not facts["runs"]:
            facts["terms"] = {"start": start, "kept": terms(model, triples)}
        metrics = json.loads((run / "model" / "metrics.json").read_text(encoding="utf-8"))
        kept = {"validation recall@20": metrics["validation"]["recall@20"], "epoch": metrics["best_epoch"]}
        facts["runs"]["/".join(run.parts[-2:])] = kept | moved(model, data, triples)
    print(f"{term_table(facts['terms'])}\n\n{run_table(facts['runs'])}")
    if arguments.output:
        arguments.output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def batches(data: TrainingData, config: Config, n: int) -> Iterator[Triples]:
    """`n` batches of triples as training draws them."""
    sampler, generator = NegativeSampler(data), torch.Generator().manual_seed(0)
    users, positives = sampler.pairs
    order = torch.randperm(len(users), generator=generator)
    for chosen in order.split(config.train.batch_size)[:n]:
        yield users[chosen], positives[chosen], sampler.sample(users[chosen], generator)


def weighted_terms(model: AlignRec, triples: Triples) -> dict[str, tuple[Tensor, float]]:
    """The terms that the options ask for, as they are, and their weights."""
    parts, options = model.loss(*triples), model.options
    found = {"BPR": (parts["bpr"], 1.0), "L2": (parts["reg"], options.reg_weight)}
    if "cca.item" in parts:
        found["CCA"] = (parts["cca.user"] + parts["cca.item"], options.cca_weight)
    if "uia" in parts:
        found["UIA"] = (parts["uia"], options.uia_weight)
    if "similarity" in parts:
        found["REG"] = (parts["similarity"], options.similarity_weight)
    return found


def terms(model: AlignRec, batches: Sequence[Triples]) -> dict[str, dict[str, float]]:
    """Term -> its value, times its weight; per group the share of the terms' gradient norms; the cosine."""
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    sums: dict[str, dict[str, float]] = {}
    for triples in batches:
        found, gradients = weighted_terms(model, triples), {}
        for name, (value, weight) in found.items():
            grads = torch.autograd.grad(weight * value, parameters, retain_graph=True, allow_unused=True)
            gradients[name] = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads,
                               strict=True)]  # fmt: skip
        figures = {n: {"value": v.item(), "weighted": weight * v.item()} for n, (v, weight) in found.items()}
        for group, prefixes in GROUPS.items():
            flat = {name: torch.cat([g.flatten() for n, g in zip(names, grads, strict=True)
                    if n.startswith(prefixes)]) for name, grads in gradients.items()}  # fmt: skip
            total = sum(float(vector.norm()) for vector in flat.values())
            for name, vector in flat.items():
                figures[name][f"share of {group}"] = float(vector.norm()) / total
                figures[name][f"cosine in {group}"] = float(F.cosine_similarity(vector, flat["BPR"], dim=0))
        for name, row in figures.items():
            for key, value in row.items():
                sums.setdefault(name, {}).setdefault(key, 0.0)
                sums[name][key] += value / len(batches)
    return sums


@torch.no_grad()
def moved(model: AlignRec, data: TrainingData, batches: Sequence[Triples]) -> dict[str, float]:
    """What the vectors of a model are like; means over a sample of at most SAMPLE users and items."""
    model.eval()
    users, items = model()
    user_side, item_side = model.sides()
    user_ids, item_ids = model.graph.propagate(model.user.weight, model.item.weight, model.options.n_layers)
    generator = torch.Generator().manual_seed(0)
    trained = (data.item_degree > 0) & model.item_held
    some_items = _some(trained, generator)
    some_users = _some(model.user_held, generator)
    u, i = batches[0][0], batches[0][1]
    j = some_items[torch.randint(len(some_items), (len(u),), generator=generator)]
    pairs = _some(model.item_held, generator, len(model.item_held))
    a, b = (pairs[torch.randint(len(pairs), (PAIRS,), generator=generator)] for _ in range(2))
    unit = F.normalize(items[some_items])
    return {
        "own id nearest, items": _own_nearest(item_side[some_items], item_ids[some_items]),
        "own id nearest, users": _own_nearest(user_side[some_users], user_ids[some_users]),
        "length of s / of c, items": float(item_side[some_items].norm(dim=1).mean()
                                           / item_ids[some_items].norm(dim=1).mean()),
        "cosine of user and positive": float(F.cosine_similarity(users[u], items[i]).mean()),
        "cosine of user and any item": float(F.cosine_similarity(users[u], items[j]).mean()),
        "cosine of two items": float((unit.sum(dim=0).square().sum() - len(unit))
                                      / (len(unit) * (len(unit) - 1))),
        "s.s and cosine of features": _agreement(model, item_side, a[a != b], b[a != b]),
        "popular tenth in lists": _popular_share(users[some_users], items, data.item_degree),
    }  # fmt: skip


def _some(which: Tensor, generator: torch.Generator, most: int = SAMPLE) -> Tensor:
    found = which.nonzero().flatten()
    return found[torch.randperm(len(found), generator=generator)[:most]]


def _own_nearest(side: Tensor, ids: Tensor) -> float:
    """How often the id side that is nearest to a content side is its own."""
    nearest = (F.normalize(side) @ F.normalize(ids).T).argmax(dim=1)
    return float((nearest == torch.arange(len(side))).float().mean())


def _agreement(model: AlignRec, side: Tensor, a: Tensor, b: Tensor) -> float:
    """Correlation over pairs of items, mean over views, of inner products and what REG wants them to be."""
    products, found = (side[a] * side[b]).sum(dim=1), []
    for view in model.targets:
        values, held = view.values, view.held  # pyright: ignore[reportAttributeAccessIssue]
        both = held[a] & held[b]
        cosines = F.cosine_similarity(values[a[both]].float(), values[b[both]].float())
        found.append(torch.corrcoef(torch.stack([products[both], cosines]))[0, 1])
    return float(torch.stack(found).mean())


def _popular_share(users: Tensor, items: Tensor, degree: Tensor) -> float:
    """Share of the most popular tenth of items in the users' top lists, training items included."""
    tenth = torch.zeros(len(items))
    tenth[degree.argsort(descending=True)[: len(items) // 10]] = 1
    return float(tenth[(users @ items.T).topk(LIST, dim=1).indices].mean())


def term_table(terms: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    columns = ["term", "value", "times weight", *(f"share of {g}" for g in GROUPS)]
    columns += [f"cosine with BPR, {g}" for g in GROUPS]
    lines = [f"| {' | '.join(columns)} |", "| --- |" + " ---: |" * (len(columns) - 1)]
    for name, start in terms["start"].items():
        kept = terms["kept"][name]
        cells = [f"{start[k]:.3g}, {kept[k]:.3g}" for k in ("value", "weighted")]
        cells += [f"{start[f'share of {g}']:.0%}, {kept[f'share of {g}']:.0%}" for g in GROUPS]
        cells += [f"{start[f'cosine in {g}']:+.2f}, {kept[f'cosine in {g}']:+.2f}" for g in GROUPS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run_table(runs: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"| | {' | '.join(runs)} |", "| --- |" + " ---: |" * len(runs)]
    for key in next(iter(runs.values())):
        cells = [f"{row[key]:.4f}" if key.startswith("val") else f"{row[key]:.3g}" for row in runs.values()]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
