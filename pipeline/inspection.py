"""`mmrec inspect`: what is in a run folder or a feature store, in a few lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..features.errors import InputError
from ..features.store import FeatureStore
from ..features.tables import write_parquet
from ..stages.similarity import similarity_report
from .judged import judged_tables
from .outcome import Outcome, number, table
from .summary import evaluation_tables

_MANIFEST, _MODEL, _INDEX, _EVALUATION = "manifest.json", "config.json", "index.json", "evaluation.json"
_JUDGED = "features.json"


def inspect(folder: Path, verify: bool = False) -> Outcome:
    """Facts and text about every artefact in `folder`; `verify` also checks the shards' checksums.

    Raises FileNotFoundError for a folder without artefacts, InputError for a damaged one.
    """
    facts: dict[str, Any] = {}
    texts: list[str] = []
    if store_folder := _store_folder(folder):
        facts["features"], text = _store(store_folder, verify)
        texts.append(text)
    for name, file, describe in (
        ("model", folder / "model" / _MODEL, _model),
        ("index", folder / "index" / _INDEX, _index),
        ("evaluation", folder / _EVALUATION, evaluation_tables),
        ("judged", folder / _JUDGED, judged_tables),
    ):
        if file.is_file():
            facts[name] = _read(file)
            texts.append(describe(facts[name]))
    if not facts:
        raise FileNotFoundError(
            f"{folder}: neither a run folder nor a feature store; expected {_MANIFEST} or model/"
        )
    return Outcome(facts, "\n\n".join(texts))


def inspect_similarity(
    folder: Path,
    worst: int = 20,
    temperature: float = 0.2,
    output: Path | None = None,
    verify: bool = False,
) -> Outcome:
    """How well texts and images of the feature store in `folder` fit; `output` gets a row per item, Parquet.

    Raises FileNotFoundError for a folder without a store, InputError where there is nothing to compare.
    """
    store = FeatureStore(_store_folder(folder) or folder)
    if verify:
        store.verify()
    report = similarity_report(store, worst, temperature)
    facts = report.facts
    views = list(facts["views"])
    quantiles = ["0.01", "0.05", "0.5", "0.95"]
    header = ["view", "compared", "missing", "mean", "sd", "random", *(f"{float(q):.0%}" for q in quantiles)]
    rows = [
        [
            f"text.{view}",
            *(f"{of_view[key]:,}" for key in ("compared", "missing")),
            *(number(of_view[key]) for key in ("mean", "std", "random_mean")),
            *(number(of_view["quantiles"].get(q)) for q in quantiles),
        ]
        for view, of_view in facts["views"].items()
    ]
    title = f"cosine with {facts['image_view']} ({facts['items']:,} items); random: with other items' images"
    texts = [table(title, header, rows)]
    texts.append(
        f"{facts['mismatched']:,} of {facts['compared']:,} items fit no better than a random pairing"
    )
    worst_rows = [
        [
            str(row["item_id"]),
            f"{row['mismatch']:.2f}",
            *(number(row[f"similarity.{view}"]) for view in views),
        ]
        for row in facts["worst"]
    ]
    texts.append(table("worst first: wrong photo, swapped text", ["item", "mismatch", *views], worst_rows))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(output, report.items)
        texts.append(f"similarity, contrast and weight of every view of every item: {output}")
    return Outcome({"similarity": facts}, "\n\n".join(texts))


def _store_folder(folder: Path) -> Path | None:
    """The feature store that `folder` is or holds; None where there is none."""
    candidates = (folder, folder / "features")
    return next((candidate for candidate in candidates if (candidate / _MANIFEST).is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        if facts["schema"] != 1:
            raise InputError(f"{file}: schema {facts['schema']}, this version reads 1")
        return facts
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: damaged ({error!r}); run the stage again") from error


def _store(folder: Path, verify: bool) -> tuple[dict[str, Any], str]:
    store = FeatureStore(folder)
    if verify:
        store.verify()
    manifest = store.manifest
    rows = [
        [view, str(facts["dim"]), f"{facts['present']:,}", f"{manifest['rows'] - facts['present']:,}"]
        for view, facts in manifest["views"].items()
    ]
    used = (manifest["space"][key]["name"] for key in ("encoder", "text_encoder") if key in manifest["space"])
    encoders = " and ".join(used) or "foreign features"
    title = f"features: {manifest['rows']:,} items in {len(manifest['shards'])} shards, {encoders}"
    if verify:
        title += ", every checksum right"
    return manifest, table(title, ["view", "dim", "present", "missing"], rows)


def _model(config: dict[str, Any]) -> str:
    options = ", ".join(f"{name} {value}" for name, value in config["options"].items())
    return f"model: {config['model']}, dim {config['dim']}, views {config['views'] or 'none'}; {options}"


def _index(facts: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {value}" for name, value in facts["measured"].items())
    return f"index: {facts['kind']}; {figures}"
