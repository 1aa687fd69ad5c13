"""The README.md of a bundle: a model card in the form that Hugging Face reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .publish import Candidate

_SHOWN = ("recall", "ndcg", "coverage")
_CARD = """\
---
library_name: mmrec
pipeline_tag: other
tags:
- recommender-system
- multimodal
- {model}
metrics:
{metrics}
---

# Bundle {id}

A recommender of the model `{model}` with {dim} dimensions, trained by mmrec.
It holds ids and vectors of {users:,} users and {items:,} items, learned from {interactions:,} interactions.
The score of a user and an item is the inner product of their vectors.

## How good it is

{results}

Test split, all items ranked, what a user had left out; 95 % bootstrap intervals over users. All figures
are in `evaluation.json`, by split and segment.

## What it was made from

{features}
{views}
Lineage: `{lineage}`

## How to use it

    mmrec recommend BUNDLE --top-k 20 --output lists.parquet

reads nothing but this folder. `bundle.json` has the SHA-256 of every file. What is in which file stands in
mmrec's documentation, on the page of artefacts.

## Limits

It knows the taste of the people in its log at that time, with the biases of what they were shown. Items
without any interaction are placed by their content alone, where the model reads content. What it does to
groups of people was not examined.
"""


def model_card(account: Mapping[str, Any], candidate: Candidate) -> str:
    """Markdown with a YAML header; what comes from the config is quoted, nothing comes from the data."""
    tested = candidate.tested
    shown = {name: value for name, value in tested.items() if name.partition("@")[0] in _SHOWN}
    rows = [f"| {name} | {_mean(value)} | {_interval(value)} |" for name, value in shown.items()]
    table = ["| metric | mean | 95 % interval |", "| --- | --- | --- |", *rows]
    config = candidate.model.config
    views = ", ".join(f"`{view}`" for view in config["views"])
    return _CARD.format(
        **candidate.counts,
        id=account["id"],
        model=config["model"],
        dim=config["dim"],
        metrics="\n".join(f"- {name}" for name in shown) or "- none",
        results="\n".join(table) if rows else "There is no test split.",
        features=_encoder(candidate),
        views=f"The model reads the views {views}.\n" if views else "The model reads interactions alone.\n",
        lineage=json.dumps(account["lineage"]),
    )


def _encoder(candidate: Candidate) -> str:
    if candidate.manifest is None:
        return "Interactions alone: there are no features."
    space = json.loads(candidate.manifest.read_text(encoding="utf-8"))["space"]
    names = [space[key]["name"] for key in ("encoder", "text_encoder") if key in space]
    made_by = " and ".join(f"`{name}`" for name in names) or "made elsewhere"
    return f"Features: {made_by} (`features/manifest.json`)."


def _mean(value: Mapping[str, float | None]) -> str:
    mean = value["mean"]
    return "-" if mean is None or not math.isfinite(mean) else f"{mean:.4f}"


def _interval(value: Mapping[str, float | None]) -> str:
    low, high = value.get("low"), value.get("high")
    return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"
