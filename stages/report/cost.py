"""What runs cost, how they ended, and what they published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..extraction.advice import size
from ..measured import main_cutoff
from .markup import Element, Node, el, named
from .parts import LeftOut, Section, details, number, paragraph, table, took

Record = Mapping[str, Any]  # the content of runs/<id>/run.json

_DONE, _SUCCEEDED = "done", "succeeded"
_LISTED = 14  # earlier runs


def notice(records: Sequence[Record]) -> list[Node]:
    """A word in front of everything where the last run has not done its work; `records` oldest first."""
    if not records or records[-1]["status"] == _SUCCEEDED:
        return []
    last = records[-1]
    words: list[Node] = [el("strong", f"The last run, {last['id']}, has the status {last['status']}. ")]
    if last.get("error"):
        words += [f"Exit code {last['exit_code']}: ", named(last["error"]["message"], 500)]
    return [
        el("div", paragraph(*words), paragraph("What follows is what the folder holds."), class_="notice")
    ]


def cost_section(records: Sequence[Record]) -> Section | LeftOut:
    """Seconds per stage of the last run, and of the run that last did the work, and earlier runs."""
    if not records:
        return LeftOut("Cost", "there is no record of a run; `mmrec run` leaves one")
    last = records[-1]
    body: list[Node] = [_summary(last)]
    rows = [_stage(stage, _last_work(records, stage["name"])) for stage in last["stages"]]
    if rows:
        columns = ["stage", "outcome", "last run", "when last made"]
        body.append(table("Stages of the last run", columns, rows, words=(1,)))
    if len(records) > 1:
        earlier = [_run(record) for record in reversed(records[-_LISTED - 1 :])]
        columns = ["run", "status", "published", "recall", "took"]
        body.append(details("Runs of late", table("The newest first", columns, earlier, words=(1, 2))))
    return Section("cost", "Cost", body)


def _run(record: Record) -> Sequence[Node]:
    """A row of the table of runs."""
    metrics = (record.get("metrics") or {}).get("test") or {}
    recall = (
        f"recall@{main_cutoff(metrics)} {number(metrics[f'recall@{main_cutoff(metrics)}'])}"
        if metrics
        else "–"
    )
    seconds = record.get("seconds")
    return [
        named(record["id"]),
        named(record["status"]),
        named(_published(record) or "–"),
        recall,
        "–" if seconds is None else took(seconds),
    ]


def _published(record: Record) -> str | None:
    """The bundle that was published after the run, made by it or before."""
    return (record.get("published") or {}).get("id")


def _summary(last: Record) -> Element:
    words = f"Run {last['id']} {last['status']}"
    if last.get("seconds") is not None:
        words += f" in {took(last['seconds'])}"
    words += f", begun {last['started'][:16].replace('T', ' ')} UTC on {last['host']}."
    memory = (last.get("memory") or {}).get("peak_memory_mb")
    if memory:
        words += f" Its peak memory was {size(1e6 * memory)}."
    energy = last.get("energy_joules")
    if energy:
        words += f" The GPUs took {sum(energy.values()) / 3600:,.1f} Wh."
    if _published(last):
        words += f" Published is {_published(last)}."
    return paragraph(words)


def _stage(stage: Mapping[str, Any], made: float | None) -> Sequence[Node]:
    outcome = {True: "up to date", False: "made", None: _DONE}[stage.get("up_to_date")]
    if stage["status"] != _DONE:
        outcome = stage["status"]
    elif stage.get("changed") == ["new"]:
        outcome = "made for the first time"
    elif stage.get("changed"):
        outcome = f"made, since this changed: {', '.join(stage['changed'])}"
    if stage.get("attempts", 1) > 1:
        outcome += f" ({stage['attempts']} attempts)"
    return [named(stage["name"]), named(outcome), took(stage["seconds"]), "–" if made is None else took(made)]


def _last_work(records: Sequence[Record], name: str) -> float | None:
    """Seconds of the stage in the last run that did not find it up to date."""
    worked = [
        stage["seconds"]
        for record in records
        for stage in record["stages"]
        if stage["name"] == name and stage["status"] == _DONE and not stage.get("up_to_date")
    ]
    return worked[-1] if worked else None
