"""What everything in a run was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .markup import Element, Node, clipped, el, named
from .parts import Section, details, paragraph, table
from .run_files import RunFiles


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
