"""`mmrec inspect`: what is in a run folder or a feature store, in a few lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..features.errors import InputError
from ..features.store import FeatureStore
from .outcome import Outcome, table
from .summary import evaluation_tables

_MANIFEST, _MODEL, _INDEX, _EVALUATION = "manifest.json", "config.json", "index.json", "evaluation.json"


def inspect(folder: Path, verify: bool = False) -> Outcome:
    """Facts and text about every artefact in `folder`; `verify` also checks the shards' checksums.

    Raises FileNotFoundError for a folder without artefacts, InputError for a damaged one.
    """
    facts: dict[str, Any] = {}
    texts: list[str] = []
    for store_folder in (folder, folder / "features"):
        if (store_folder / _MANIFEST).is_file():
            facts["features"], text = _store(store_folder, verify)
            texts.append(text)
            break
    for name, file, describe in (
        ("model", folder / "model" / _MODEL, _model),
        ("index", folder / "index" / _INDEX, _index),
        ("evaluation", folder / _EVALUATION, evaluation_tables),
    ):
        if file.is_file():
            facts[name] = _read(file)
            texts.append(describe(facts[name]))
    if not facts:
        raise FileNotFoundError(
            f"{folder}: neither a run folder nor a feature store; expected {_MANIFEST} or model/"
        )
    return Outcome(facts, "\n\n".join(texts))


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
    encoder = manifest["space"].get("encoder", {}).get("name", "foreign features")
    title = f"features: {manifest['rows']:,} items in {len(manifest['shards'])} shards, {encoder}"
    if verify:
        title += ", every checksum right"
    return manifest, table(title, ["view", "dim", "present", "missing"], rows)


def _model(config: dict[str, Any]) -> str:
    options = ", ".join(f"{name} {value}" for name, value in config["options"].items())
    return f"model: {config['model']}, dim {config['dim']}, views {config['views'] or 'none'}; {options}"


def _index(facts: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {value}" for name, value in facts["measured"].items())
    return f"index: {facts['kind']}; {figures}"
