"""What a run cost, and what everything in it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..extraction.advice import size
from .markup import Element, Node, clipped, el, named
from .parts import LeftOut, Section, details, paragraph, table, took
from .run_files import RunFiles

Record = Mapping[str, Any]  # the content of runs/<id>/run.json

_DONE = "done"


def cost_section(records: Sequence[Record]) -> Section | LeftOut:
    """Seconds per stage of the last run, and of the run that last did the work; `records` oldest first."""
    if not records:
        return LeftOut("Cost", "there is no record of a run; `mmrec run` leaves one")
    last = records[-1]
    body: list[Node] = [_summary(last)]
    if last.get("error"):
        ended = el("strong", f"It ended with exit code {last['exit_code']}: ")
        body.append(paragraph(ended, named(last["error"]["message"], 500)))
    rows = [_stage(stage, _last_work(records, stage["name"])) for stage in last["stages"]]
    if rows:
        body.append(
            table(
                "Stages of the last run", ["stage", "outcome", "last run", "when last made"], rows, words=(1,)
            )
        )
    return Section("cost", "Cost", body)


def lineage_section(run: RunFiles, manifest: Mapping[str, Any] | None, config: str | None) -> Section:
    """Digests of what every artefact was made from, the data's counts, versions and the configuration."""
    body: list[Node] = [
        paragraph(
            "Each artefact is named by digests of what it was made from; equal digests, equal artefacts."
        )
    ]
    rows = _lineage_rows(run, manifest)
    if rows:
        columns = ["artefact", "made from", "digest"]
        body.append(
            details("Digests", table("What each artefact was made from", columns, rows, words=(1, 2)))
        )
    provenance = (run.evaluation or {}).get("provenance", {})
    if provenance.get("interactions"):
        kept: list[Sequence[Node]] = [
            [named(name.replace("_", " ")), f"{value:,}"]
            for name, value in provenance["interactions"].items()
        ]
        body.append(
            details(
                "Interactions, from the file to the splits",
                table("Rows of the log", ["what became of them", "rows"], kept),
            )
        )
    versions = {**(manifest or {}).get("libraries", {}), **provenance.get("libraries", {})}
    if versions:
        lines: list[Sequence[Node]] = [
            [named(name), named(str(version))] for name, version in versions.items()
        ]
        body.append(details("Versions", table("Libraries", ["library", "version"], lines, words=(1,))))
    if run.model is not None:
        body.append(
            details("Model", _listing(json.dumps(_settings(run.model), indent=2, ensure_ascii=False)))
        )
    if config is not None:
        body.append(details("Configuration", _listing(config)))
    return Section("lineage", "Lineage", body)


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


def _lineage_rows(run: RunFiles, manifest: Mapping[str, Any] | None) -> list[Sequence[Node]]:
    rows: list[Sequence[Node]] = []
    for key in ("encoder", "text_encoder"):
        encoder = (manifest or {}).get("space", {}).get(key)
        if encoder:
            rows.append(
                [
                    "features",
                    named(f"{key.replace('_', ' ')} {encoder['name']}"),
                    _digest(encoder.get("weights")),
                ]
            )
    lineages = {
        "model": (run.model or {}).get("lineage", {}),
        "index": (run.index or {}).get("lineage", {}),
        "evaluation": (run.evaluation or {}).get("provenance", {}).get("lineage", {}),
    }
    rows += [
        [artefact, named(component), _digest(digest)]
        for artefact, lineage in lineages.items()
        for component, digest in lineage.items()
    ]
    return rows


def _digest(value: object) -> Element:
    return el("code", clipped(str(value), 80))


def _settings(model: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("model", "dim", "views", "parameters", "options", "train", "fusion")
    return {name: model[name] for name in shown if name in model}


def _listing(text: str) -> Element:
    return el("pre", el("code", text), tabindex=0)
