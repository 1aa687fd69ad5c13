"""Who is served well and who is not: the main split by segments of users and of items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..measured import main_cutoff
from .charts import whisker
from .markup import Element, Node, el, named
from .parts import LeftOut, Section, interval, number, paragraph, table
from .results import Evaluation, main_split

_TITLES = {
    "activity": "By how much users did before",
    "popularity": "By how popular the held-out item is",
    "modality": "By what is known of the held-out item",
}
_NOTES = {
    "activity": "Thirds of the users, by their interactions in training (in brackets).",
    "popularity": "Head: the items with the first 20 % of all interactions; tail: beyond 80 %; in brackets, "
    "interactions of an item in training.",
    "modality": "What the feature store has of it: a missing picture or text is masked in training.",
}


def breakdowns_section(evaluation: Evaluation | None) -> Section | LeftOut:
    """A table for every kind of segment, on one scale each."""
    split = None if evaluation is None else main_split(evaluation)
    if evaluation is None or split is None:
        return LeftOut("Breakdowns", "nothing was evaluated")
    kinds = evaluation["segments"].get(split, {})
    if not kinds:
        return LeftOut("Breakdowns", "evaluation.json holds no segments; run `mmrec evaluate`")
    metric = f"recall@{main_cutoff(evaluation['splits'][split]['metrics'])}"
    overall = evaluation["splits"][split]["metrics"][metric]["mean"]
    body: list[Node] = [paragraph(f"The thin mark is {metric} over all users, {number(overall)}.")]
    for kind, segments in kinds.items():
        body += _kind(kind, segments, metric, overall)
    if "modality" not in kinds:
        body.append(
            paragraph(
                "There is no breakdown by modality: all items have the same of pictures and texts, or there "
                "are no features.",
                class_="note",
            )
        )
    return Section("breakdowns", "Breakdowns", body)


def _kind(kind: str, segments: Mapping[str, Any], metric: str, overall: float) -> list[Node]:
    figures = {name: segment["metrics"][metric] for name, segment in segments.items()}
    largest = max([overall, *(figure["high"] or figure["mean"] for figure in figures.values())])
    rows: list[list[Node]] = [
        [
            named(name),
            el("strong", number(figures[name]["mean"])),
            whisker(figures[name]["mean"], figures[name]["low"], figures[name]["high"], largest, [overall]),
            interval(figures[name]),
            f"{segment['users']:,}",
            f"{segment['positives']:,}",
        ]
        for name, segment in segments.items()
    ]
    title = _TITLES.get(kind, f"By {kind}")
    shown: Element = table(
        f"{metric} {title[0].lower()}{title[1:]}",
        ["segment", metric, "95 % interval", "from, to", "users", "held out"],
        rows,
        words=(2,),
    )
    return [el("h3", title), paragraph(_NOTES.get(kind, "")), shown]
