"""What was found on held-out interactions: the verdict, every split, every metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..measured import SPLIT_TITLES, cutoffs, main_cutoff
from .charts import whisker
from .markup import Element, Node, el, named
from .parts import (
    LeftOut,
    Section,
    count,
    details,
    interval,
    number,
    paragraph,
    percent,
    table,
)

Evaluation = Mapping[str, Any]  # the content of evaluation.json

_MEANINGS = {
    "recall": "share of a user's held-out items that the list holds",
    "ndcg": "the same, where an early place counts for more",
    "precision": "share of the list that the user took",
    "map": "mean precision at the places of the hits",
    "mrr": "1 over the place of the first hit",
    "hit": "share of users with a hit at all",
    "coverage": "share of the catalogue that is in somebody's list",
    "gini": "0 where all items are listed equally often, near 1 where a few are",
    "novelty": "how unusual listed items are, in bits",
    "epc": "how far listed items are from the most popular one, 0 to 1",
    "arp": "interactions that a listed item has in training",
    "aplt": "share of the list outside the popular items",
    "popularity_lift": "how much more popular lists are than what users had",
    "recall_pooled": "hits of all users over held-out items of all users",
    "entropy": "how evenly items are listed, 1 where equally often",
    "inter_user_diversity": "how much two users' lists differ",
}


def main_split(evaluation: Evaluation) -> str | None:
    """The split that a reader asks for first: test, or else the first that was measured."""
    measured = [name for name, found in evaluation["splits"].items() if found["metrics"]]
    return "test" if "test" in measured else next(iter(measured), None)


def verdict(evaluation: Evaluation) -> list[Node]:
    """The main figures as tiles, and one sentence that says what they mean."""
    split = main_split(evaluation)
    if split is None:
        return []
    found = evaluation["splits"][split]
    metrics = found["metrics"]
    k = main_cutoff(metrics)
    tiles = [
        _tile(
            f"recall@{k}", metrics[f"recall@{k}"], f"{SPLIT_TITLES[split]}, {count(found['users'], 'user')}"
        ),
        _tile(f"ndcg@{k}", metrics[f"ndcg@{k}"], "early places count for more"),
    ]
    cold = evaluation["splits"].get("test_among_cold", {}).get("metrics", {}).get(f"recall@{k}")
    if cold:
        tiles.append(_tile(f"recall@{k}, cold", cold, "items nobody had, among themselves"))
    coverage = metrics.get(f"coverage@{k}")
    if coverage:
        tiles.append(_tile(f"coverage@{k}", coverage, "of the catalogue is listed"))
    return [el("div", *tiles, class_="tiles"), paragraph(*_sentence(evaluation, split, k), class_="lead")]


def results_section(evaluation: Evaluation | None) -> Section | LeftOut:
    """Every split with its interval beside the baselines, and all metrics of the main split."""
    if evaluation is None:
        return LeftOut("Results", "there is no evaluation.json; run `mmrec evaluate`")
    split = main_split(evaluation)
    if split is None:
        return LeftOut("Results", "no split has a user to evaluate")
    k = main_cutoff(evaluation["splits"][split]["metrics"])
    body: list[Node] = [
        paragraph(
            "Interactions that training never saw were held out; lists are asked of the index as a service "
            "would ask. Brackets hold 95 % intervals over users",
            "; the thin marks are the baselines." if evaluation["baselines"] else ".",
        ),
        _split_table(evaluation, f"recall@{k}"),
        details(f"All metrics of the {SPLIT_TITLES[split]} split", _metric_table(evaluation, split)),
    ]
    return Section("results", "Results", body)


def _tile(name: str, estimate: Mapping[str, Any], meaning: str) -> Element:
    return el(
        "div",
        el("span", name, class_="name"),
        el("strong", number(estimate["mean"])),
        el("span", interval(estimate) if estimate["low"] is not None else "", class_="interval"),
        el("span", meaning, class_="meaning"),
        class_="tile",
    )


def _sentence(evaluation: Evaluation, split: str, k: int) -> list[Node]:
    name = f"recall@{k}"
    own = evaluation["splits"][split]["metrics"][name]
    words: list[Node] = [
        f"With {k} places, ",
        named(evaluation["model"]),
        f" shows {percent(own['mean'])} of what users went on to take",
    ]
    baselines = {
        other: splits[split]["metrics"][name]["mean"]
        for other, splits in evaluation["baselines"].items()
        if splits.get(split, {}).get("metrics")
    }
    if not baselines:
        return [*words, "."]
    best = max(baselines, key=lambda other: baselines[other])
    words += ["; the best baseline, ", named(best), f", shows {percent(baselines[best])}"]
    if own["low"] is None:
        return [*words, "."]
    if own["low"] > baselines[best]:
        return [*words, ", which is below the interval of the model."]
    if own["high"] < baselines[best]:
        return [*words, ", which is above the interval of the model: it is not worth its cost as it is."]
    return [*words, ", which lies within the interval of the model: no clear difference."]


def _split_table(evaluation: Evaluation, metric: str) -> Element:
    measured = {name: found for name, found in evaluation["splits"].items() if found["metrics"]}
    baselines = evaluation["baselines"]
    rows = []
    largest = max(_reach(found["metrics"][metric]) for found in measured.values())
    others = {
        name: [splits[name]["metrics"][metric]["mean"] for splits in baselines.values() if name in splits]
        for name in measured
    }
    largest = max([largest, *(value for values in others.values() for value in values)])
    for name, found in measured.items():
        estimate = found["metrics"][metric]
        rows.append(
            [
                SPLIT_TITLES.get(name, name),
                el("strong", number(estimate["mean"])),
                whisker(estimate["mean"], estimate["low"], estimate["high"], largest, others[name]),
                interval(estimate),
                *(number(value) for value in others[name]),
                f"{found['users']:,}",
                f"{found['candidates']:,}",
            ]
        )
    columns = [named(evaluation["model"]), "95 % interval", "from, to", *map(named, baselines)]
    return table(f"{metric} by split", ["split", *columns, "users", "candidates"], rows, words=(2,))


def _metric_table(evaluation: Evaluation, split: str) -> Element:
    metrics = evaluation["splits"][split]["metrics"]
    ks = cutoffs(metrics)
    families = list(dict.fromkeys(name.partition("@")[0] for name in metrics))
    rows: list[Sequence[Node]] = [
        [family, _MEANINGS.get(family, ""), *(_stacked(metrics.get(f"{family}@{k}")) for k in ks)]
        for family in families
    ]
    return table(
        "Metrics by length of the list", ["metric", "what it says", *(f"@{k}" for k in ks)], rows, words=(1,)
    )


def _stacked(estimate: Mapping[str, Any] | None) -> Node:
    if not estimate:
        return "–"
    if estimate["low"] is None:
        return number(estimate["mean"])
    return el("span", number(estimate["mean"]), el("small", interval(estimate)), class_="stacked")


def _reach(estimate: Mapping[str, Any]) -> float:
    return estimate["mean"] if estimate["high"] is None else estimate["high"]
