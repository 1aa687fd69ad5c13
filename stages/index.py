"""Stage 2, second half: the bundle's item vectors to a FAISS index, measured against exact search."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..features.errors import InputError, first_line
from ..features.files import digest_json, fresh_folder, recover_folder, write_json
from ..recsys.config import IndexConfig
from ..recsys.index import ItemIndex, build_index, measure, read_index
from .bundle import Bundle, read_bundle
from .lineage import changes, file_sizes, read_lineage

CODE_VERSION = 1  # raise it when the same vectors and settings would give another index
MEASURED_K = 20
ITEMS, FACTS = "items.faiss", "index.json"


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
    lineage = index_lineage(bundle.config["vectors"], config)
    changed = changes(read_lineage(folder / FACTS, "lineage"), lineage)
    if not changed:
        return IndexReport(config.kind, up_to_date=True)
    started = time.perf_counter()
    index = build_index(bundle.vectors.items, config)
    measured = measure(index, bundle.vectors.users, MEASURED_K, seed=config.seed)
    with fresh_folder(folder) as fresh:
        (fresh / ITEMS).write_bytes(index.to_bytes())
        facts = {"schema": 1, **index.facts, "measured": measured, "lineage": lineage}
        write_json(fresh / FACTS, {**facts, "files": file_sizes([fresh / ITEMS])})
    return IndexReport(config.kind, False, changed, measured, time.perf_counter() - started)


def index_lineage(vectors: str, config: IndexConfig) -> dict[str, str]:
    """What an index is made from; `vectors` is their digest in the config of the bundle."""
    return {
        "vectors": vectors,
        "settings": digest_json(config.model_dump(mode="json", exclude={"device"})),
        "code": f"index/{CODE_VERSION}",
    }


def open_index(folder: Path, bundle: Bundle, device: str) -> tuple[ItemIndex, dict[str, Any]]:
    """The index in `folder` over the bundle's items, and its facts.

    Raises FileNotFoundError without an index, InputError for a damaged one or one of another model.
    """
    recover_folder(folder)
    if not (folder / FACTS).is_file():
        raise FileNotFoundError(f"{folder}: no index here; run `mmrec train` first")
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        made_from = facts["lineage"]["vectors"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: damaged index ({first_line(error)}); run `mmrec train` again") from error
    if made_from != bundle.config["vectors"]:
        raise InputError(f"{folder} was built for other vectors than the model's; run `mmrec train` again")
    return read_index(folder / ITEMS, bundle.vectors.items, facts, device), facts
