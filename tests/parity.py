"""Compare mmrec with golden numbers of the official implementations.

`python tests/parity.py ROOT [--only GLOB]` prints one line per fixture with the largest deviation of its
loss, gradients, scores, three optimiser steps and intermediate tensors. Exit 0 when all are within tolerance
(what is not built yet does not count), 1 past tolerance, 2 for a ROOT without fixtures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity_encoders import compare_beit3, compare_long_clip, compare_view_weights, compare_vlmo
from parity_ports import FEATURES, PORTS, Names, Part, Port, Tensors, compare_fusions
from safetensors.torch import load_file
from scipy.sparse import csr_matrix
from torch import Tensor

from mmrec.recsys.adam import Adam
from mmrec.recsys.metrics import find_hits, per_user
from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import GradientModel, TrainingData
from mmrec.recsys.ranking import rank_exact

ATOL, GRADIENT_ATOL, GRADIENT_RTOL, METRIC_ATOL = 1e-5, 5e-6, 1e-4, 1e-9


@dataclass
class Deviations:
    """Largest absolute deviation per group, and the values that are past their tolerance."""

    largest: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def compare(
        self, group: str, name: str, ours: Any, theirs: Any, atol: float = ATOL, rtol: float = 0.0
    ) -> None:
        ours, theirs = (torch.as_tensor(value).detach().double() for value in (ours, theirs))
        if ours.shape != theirs.shape:
            self.failed.append(f"{name} has shape {tuple(ours.shape)}, not {tuple(theirs.shape)}")
            return
        difference = (ours - theirs).abs()
        past = ~(difference <= atol + rtol * theirs.abs())  # NaN is past any tolerance
        self.largest[group] = max(self.largest.get(group, 0.0), float(difference.max()))
        if past.any():
            self.failed.append(name)


def training_data(shared: Tensors, views: list[str]) -> TrainingData:
    n_users, n_items = int(shared["n_users"]), int(shared["n_items"])
    keys = (shared["train_user"] * n_items + shared["train_item"]).sort().values
    modalities = {
        view: Modality(shared[FEATURES[view]], torch.ones(n_items, dtype=torch.bool)) for view in views
    }
    return TrainingData(n_users, n_items, keys // n_items, keys % n_items, modalities)


def part(tensor: Tensor, chosen: Part) -> Tensor:
    return tensor[chosen] if isinstance(chosen, tuple) else tensor[..., chosen]


def load_parameters(model: GradientModel, names: Names, official: Tensors) -> None:
    parameters = dict(model.named_parameters())
    filled = [name for ours in names.values() for name in ours]
    if sorted(filled) != sorted(parameters):
        raise ValueError(f"parameters {sorted(parameters)} are not those of the port, {sorted(filled)}")
    with torch.no_grad():
        for key, ours in names.items():
            for name, columns in ours.items():
                parameters[name].copy_(part(official[key], columns))


def check_recommender(fixture: Path, config: dict[str, Any], official: Tensors) -> Deviations:
    """Loss and its parts, gradients, scores, three Adam steps and intermediate tensors of one fixture."""
    port, settings = PORTS[config["official_class"]], config["official_config"]
    shared = load_file(fixture.with_name("data.safetensors"))
    data = training_data(shared, port.views(settings, official))
    options = validate_options(port.model, port.options(settings))
    model = model_class(port.model)(data, settings[port.dim], options)
    assert isinstance(model, GradientModel)
    features = {view: modality.values for view, modality in data.modalities.items()}
    names = port.parameters(official, features)
    load_parameters(model, names, official)
    port.prepare(model, official)
    batch = shared["batch_user"], shared["batch_pos"], shared["batch_neg"]
    deviations = Deviations()
    for key, ours in port.middle(model, official).items():
        if key in official:
            deviations.compare("mid", key, ours, official[key])
    losses = model.loss(*batch)
    deviations.compare("loss", "out/loss", losses["loss"], official["out/loss"])
    for key, part in port.components.items():
        if key in official:
            deviations.compare("loss", key, losses[part], official[key])
    losses["loss"].backward()
    compare_gradients(deviations, model, names, official)
    if "out/loss_second_batch" in official:
        model.zero_grad()
        loss = model.loss(*batch)["loss"]
        deviations.compare("loss", "out/loss_second_batch", loss, official["out/loss_second_batch"])
        loss.backward()
        compare_gradients(deviations, model, names, official, "grad_second_batch/")
    compare_scores(deviations, port, "scores", model, official)
    users, items = port.embeddings(model)
    for key, rows in (("out/user_emb", users), ("out/item_emb", items)):
        if key in official:
            deviations.compare("scores", key, rows, official[key])
    if "train3/losses" in official:
        port.prepare(model, official)
        compare_steps(deviations, port, model, batch, official)
    return deviations


def compare_gradients(
    deviations: Deviations, model: GradientModel, names: Names, official: Tensors, prefix: str = "grad/"
) -> None:
    """Against `grad/*`; a parameter without one must have none here, or zeros."""
    gradients = {name: dense(parameter.grad) for name, parameter in model.named_parameters()}
    for key, ours in names.items():
        expected = official.get(key.replace("param/", prefix), torch.zeros_like(official[key]))
        for name, columns in ours.items():
            theirs = part(expected, columns)
            gradient = gradients[name] if gradients[name] is not None else torch.zeros_like(theirs)
            deviations.compare("grad", f"grad of {name}", gradient, theirs, GRADIENT_ATOL, GRADIENT_RTOL)


def dense(gradient: torch.Tensor | None) -> torch.Tensor | None:
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient


def compare_scores(
    deviations: Deviations, port: Port, group: str, model: GradientModel, official: Tensors
) -> None:
    vectors, key = model.vectors(), {"scores": "out/scores", "train3": "train3/scores"}[group]
    products = torch.from_numpy(vectors.users @ vectors.items.T)
    deviations.compare(group, key, port.score(products), official[key])


def compare_steps(
    deviations: Deviations, port: Port, model: GradientModel, batch: Any, official: Tensors
) -> None:
    """Three steps of Adam from the fixture's parameters: the loss before each, the scores after them."""
    model.zero_grad()
    adam = Adam(model, learning_rate=0.01)
    losses = []
    for _ in range(len(official["train3/losses"])):
        loss = model.loss(*batch)["loss"]
        loss.backward()
        adam.step()
        losses.append(loss.detach())
    deviations.compare("train3", "train3/losses", torch.stack(losses), official["train3/losses"])
    compare_scores(deviations, port, "train3", model, official)


def check_metrics(fixture: Path, config: dict[str, Any], official: Tensors) -> Deviations:
    """Masked ranking, hits and every metric that MMRec's evaluator shares with ours, at every cut-off."""
    scores, train, test = (official[f"in/{name}"].numpy() for name in ("scores", "train_mask", "test_mask"))
    n_users, n_items = scores.shape
    width = official["out/hits"].shape[1]
    identity = np.eye(n_items, dtype=np.float32)  # so that the inner products are the scores
    ranked = rank_exact(scores, identity, width, csr_matrix(train.astype(np.float32)))
    user_idx, item_idx = np.nonzero(test)
    hits = find_hits(ranked.items, np.arange(n_users), user_idx * n_items + item_idx, n_items)
    deviations = Deviations()
    deviations.compare("ranking", "out/topk_index", ranked.items, official["out/topk_index"], METRIC_ATOL)
    deviations.compare("ranking", "out/hits", hits, official["out/hits"], METRIC_ATOL)
    cuts = range(1, width + 1)
    values = per_user(hits, test.astype(bool).sum(axis=1), list(cuts))
    for name in ("recall", "ndcg", "precision", "map"):
        ours = np.stack([values[f"{name}@{k}"] for k in cuts], axis=1)
        deviations.compare(name, f"per-user {name}", ours, official[f"out/per_user_{name}"], METRIC_ATOL)
        deviations.compare(name, name, ours.mean(axis=0), official[f"out/{name}"], METRIC_ATOL)
    return deviations


def check_long_clip(fixture: Path, config: dict[str, Any], official: Tensors) -> Deviations:
    deviations = Deviations()
    compare_long_clip(deviations.compare, config["config"], official)
    return deviations


def check_beit3(fixture: Path, config: dict[str, Any], official: Tensors) -> Deviations:
    deviations = Deviations()
    compare_beit3(deviations.compare, config["config"], official)
    return deviations


def check_vlmo(fixture: Path, config: dict[str, Any], official: Tensors) -> Deviations:
    deviations = Deviations()
    compare_vlmo(deviations.compare, config["config"], official)
    return deviations


def check_cliper(fixture: Path, config: dict[str, Any], official: Tensors) -> Deviations:
    """Every fusion as released, through `fuse`; similarity attention from stored cosines as well."""
    deviations = Deviations()
    compare_fusions(deviations.compare, config, official)
    compare_view_weights(deviations.compare, config, official)
    return deviations


Check = Callable[[Path, dict[str, Any], Tensors], Deviations]
CLASSES: dict[str, Check] = dict.fromkeys(PORTS, check_recommender)  # by the json's official_class
FOLDERS: dict[str, Check] = {  # fixtures without a class, by their folder
    "beit3": check_beit3,
    "cliper": check_cliper,
    "longclip": check_long_clip,
    "metrics": check_metrics,
    "vlmo": check_vlmo,
}


def fixtures(root: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """(folder/name, tensor file) of every fixture: a .safetensors file with a .json of the same name."""
    for path in sorted(root.glob("*/*.safetensors")):
        name = f"{path.parent.name}/{path.stem}"
        if path.with_suffix(".json").is_file() and fnmatch(name, pattern):
            yield name, path


def check(path: Path) -> Deviations | None:
    """The deviations of one fixture; None when what it tests is not built yet."""
    config = json.loads(path.with_suffix(".json").read_text())
    compare = CLASSES.get(config.get("official_class", "")) or FOLDERS.get(path.parent.name)
    return compare(path, config, load_file(path)) if compare else None


def report(name: str, path: Path) -> bool:
    """Print the fixture's line; False when it is past tolerance."""
    try:
        deviations = check(path)
    except Exception as error:  # one broken fixture must not hide the others
        print(f"{name:32} FAILED  {type(error).__name__}: {error}")
        return False
    if deviations is None:
        print(f"{name:32} not implemented")
        return True
    numbers = "  ".join(f"{group} {value:.1e}" for group, value in deviations.largest.items())
    verdict = "FAILED" if deviations.failed else "ok"
    print(f"{name:32} {verdict:6}  {numbers}  {', '.join(deviations.failed)}".rstrip())
    return not deviations.failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder that holds recsys/, metrics/, ...")
    parser.add_argument("--only", default="*", metavar="GLOB", help="fixtures to check, e.g. 'recsys/vbpr*'")
    options = parser.parse_args(arguments)
    found = list(fixtures(options.root, options.only))
    if not found:
        print(f"{options.root}: no fixture matches '{options.only}'; expected FOLDER/NAME.safetensors")
        return 2
    within = [report(name, path) for name, path in found]
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
