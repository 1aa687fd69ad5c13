"""What people read after features have been judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .outcome import number, seconds, table

if TYPE_CHECKING:
    from ..stages.judge import JudgeReport


def judged_text(report: JudgeReport) -> str:
    done = "up to date, reused" if report.up_to_date else f"judged in {seconds(report.seconds)}"
    return f"features alone: {done} ({report.path})"


def judged_tables(facts: Mapping[str, Any]) -> str:
    """Rankings by every view and all together, what a lost modality costs, and the shape of every view."""
    tables = [_rankings(facts)]
    if facts["masked"]:
        tables.append(_masked(facts))
    tables.append(_geometry(facts))
    if facts["agreement"]:
        tables.append(_agreement(facts))
    return "\n\n".join(tables)


def _rankings(facts: Mapping[str, Any]) -> str:
    metrics = _metrics(facts)
    rows = [
        [name if first else "", protocol, *(_interval(result[metric]) for metric in metrics)]
        for name, judged in facts["sets"].items()
        for first, (protocol, result) in _marked(judged["protocols"])
    ]
    rows.append(["chance", "", *(number(facts["chance"].get(metric)) for metric in metrics)])
    title = f"rankings by features alone, {facts['split']} split, {facts['users']:,} users (95 % intervals)"
    return table(title, ["features", "protocol", *metrics], rows)


def _masked(facts: Mapping[str, Any]) -> str:
    metric = _metrics(facts)[0]
    before = list(facts["sets"].values())[-1]["protocols"]
    rows = []
    for masked in facts["masked"]:
        for first, (protocol, result) in _marked(masked["protocols"]):
            whole = before[protocol][metric]["mean"]
            drop = masked["drop"][protocol][metric]
            share = f"{drop['mean'] / whole:.1%}" if whole else "-"
            name = f"{masked['modality']}, {masked['items']:,} items" if first else ""
            rows.append(
                [name, protocol, number(whole), number(result[metric]["mean"]), _interval(drop), share]
            )
    columns = ["lost modality", "protocol", "whole", "masked", "drop (95 % interval)", "of whole"]
    return table(f"{metric} after a loss (rows {facts['masked'][0]['rows']})", columns, rows)


def _geometry(facts: Mapping[str, Any]) -> str:
    columns = ["view", "dim", "items", "effective rank", "mean cosine", "hubness", "top hub in", "no hub"]
    rows = []
    for name, view in facts["views"].items():
        rank = view["effective_rank"]
        never = view["never_a_neighbour"]
        rows.append(
            [
                name,
                f"{view['dim']:,}",
                f"{view['present']:,}",
                "-" if rank is None else f"{rank:.1f}",
                number(view["mean_cosine"]),
                "-" if view["hubness"] is None else f"{view['hubness']:.2f}",
                f"{view['most_occurrences']:,}",
                "-" if never is None else f"{never:.1%}",
            ]
        )
    return table("shape of every view", columns, rows)


def _agreement(facts: Mapping[str, Any]) -> str:
    rows = [
        [" and ".join(pair["views"]), f"{pair['items']:,}", number(pair["overlap"]), number(pair["chance"])]
        for pair in facts["agreement"]
    ]
    return table("neighbours in common", ["views", "items", "share", "chance"], rows)


def _marked(protocols: Mapping[str, Any]) -> list[tuple[bool, tuple[str, Any]]]:
    """Every protocol with its result, and whether it is the first: a name is shown once."""
    return [(position == 0, entry) for position, entry in enumerate(protocols.items())]


def _metrics(facts: Mapping[str, Any]) -> list[str]:
    """Recall and NDCG at the largest cut-off."""
    k = max(int(name.partition("@")[2]) for name in facts["chance"])
    return [f"recall@{k}", f"ndcg@{k}"]


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None:
        return number(estimate["mean"])
    return f"{number(estimate['mean'])} [{number(estimate['low'])}, {number(estimate['high'])}]"
