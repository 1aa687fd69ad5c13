"""Stage 2, second half: the bundle's item vectors to a FAISS index, measured against exact search."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..features.errors import InputError
from ..features.files import digest_json, recover_folder, replace_folder, write_json
from ..recsys.config import IndexConfig
from ..recsys.index import ItemIndex, build_index, measure, read_index
from .bundle import Bundle, read_bundle
from .lineage import changes, read_lineage

CODE_VERSION = 1  # raise it when the same vectors and settings would give another index
MEASURED_K = 20


@dataclass(slots=True)
class IndexReport:
    """What building the index did; `up_to_date` when it was reused."""

    kind: str
    up_to_date: bool = False
    changed: list[str] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def build(model_folder: Path, folder: Path, config: IndexConfig) -> IndexReport:
    """Write items.faiss and index.json to `folder`, unless an equal index is there already."""
    recover_folder(folder)
    bundle = read_bundle(model_folder)
    settings = config.model_dump(mode="json", exclude={"device"})
    lineage = {
        "model": digest_json(bundle.config["lineage"]),
        "settings": digest_json(settings),
        "code": f"index/{CODE_VERSION}",
    }
    changed = changes(read_lineage(folder / "index.json", "lineage"), lineage)
    if not changed:
        return IndexReport(config.kind, up_to_date=True)
    started = time.perf_counter()
    index = build_index(bundle.vectors.items, config)
    measured = measure(index, bundle.vectors.users, MEASURED_K, seed=config.seed)
    fresh = folder.with_name(folder.name + ".new")
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir(parents=True)
    (fresh / "items.faiss").write_bytes(index.to_bytes())
    write_json(fresh / "index.json", {"schema": 1, **index.facts, "measured": measured, "lineage": lineage})
    replace_folder(fresh, folder)
    return IndexReport(config.kind, False, changed, measured, time.perf_counter() - started)


def open_index(folder: Path, bundle: Bundle, device: str) -> tuple[ItemIndex, dict[str, Any]]:
    """The index in `folder` over the bundle's items, and its facts.

    Raises FileNotFoundError without an index, InputError for one that was built for another model.
    """
    recover_folder(folder)
    path = folder / "index.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no index here; run `mmrec train` first")
    facts = json.loads(path.read_text(encoding="utf-8"))
    if facts["lineage"]["model"] != digest_json(bundle.config["lineage"]):
        raise InputError(f"{folder} was built for another model than the bundle beside it; run `mmrec train`")
    return read_index(folder / "items.faiss", bundle.vectors.items, facts, device), facts
