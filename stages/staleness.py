"""Whether artefacts are what the config and its inputs ask for, without making anything."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ..features.catalog import read_catalog
from ..features.config import CatalogConfig, ExtractConfig
from ..features.errors import InputError
from ..features.store import MANIFEST, FeatureStore
from ..recsys.config import EvaluateConfig
from ..recsys.errors import InputError as RecsysInputError
from .extraction.request import check_made_for
from .lineage import Lineage, changes, read_lineage
from .published import PublishedBundle

log = logging.getLogger(__name__)

FRESH, STALE, MISSING, DAMAGED = "up to date", "stale", "missing", "damaged"


@dataclass(slots=True)
class Artefact:
    """One node of the graph; `why` says what differs, or what it follows."""

    name: str
    place: Path
    state: str = FRESH
    why: list[str] = field(default_factory=list)
    made: float | None = None  # seconds since 1970
    facts: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "place": str(self.place)}

    def differs(self, why: list[str]) -> None:
        """It is there, but would be made anew for these reasons, if there are any."""
        if why and self.state == FRESH:
            self.state = STALE
        self.why += why

    def follow(self, *others: Artefact | None) -> None:
        """What is made from something that will change will change too."""
        self.differs(
            [
                f"{other.name} is {other.state}"
                for other in others
                if other is not None and other.state != FRESH
            ]
            if self.state == FRESH
            else []
        )


def look_at(name: str, account: Path, lineage: Lineage | None, *keys: str) -> Artefact:
    """The artefact that the JSON file `account` finishes, against the `lineage` that it should have under
    `keys`; None where that cannot be known."""
    found = Artefact(name, account.parent if account.name != f"{name}.json" else account)
    if not account.is_file():
        found.state, found.why = MISSING, ["not made yet"]
        return found
    found.made = account.stat().st_mtime
    previous = read_lineage(account, *keys, told=False)
    if previous is None:
        found.state, found.why = DAMAGED, ["its files are not as they were written"]
    elif lineage is not None:
        found.differs(changes(previous, lineage))
    return found


def look_at_features(
    catalog: CatalogConfig | None, config: ExtractConfig, folder: Path, touched: bool | None
) -> Artefact:
    """The feature store against the settings and the ids of the catalogue. No picture is read: an item whose
    picture alone has changed is seen by `mmrec extract`. `touched` says whether the catalogue's file was
    written to since the last run, None where that is not known."""
    found = Artefact("features", folder)
    if not (folder / MANIFEST).is_file():
        found.state, found.why = MISSING, ["not made yet"]
        return found
    found.made = (folder / MANIFEST).stat().st_mtime
    try:
        store = FeatureStore(folder)
        ids = store.item_ids
    except (InputError, FileNotFoundError) as error:
        found.state, found.why = DAMAGED, [str(error)]
        return found
    found.facts = {"items": len(store)}
    try:
        check_made_for(store, config)
    except InputError as error:
        said = str(error).partition("was extracted with ")[2].rpartition("; run")[0]
        found.differs([f"settings: it has {said}"])
    if catalog is not None:
        found.differs(_changed_items(catalog, ids, touched))
    return found


def look_at_published(name: str, place: Path, bundle: PublishedBundle, run: Mapping[str, str]) -> Artefact:
    """The published bundle against what the run folder holds, by the components that are known at once."""
    found = Artefact(name, place, made=bundle.folder.stat().st_mtime)
    lineage = bundle.account["lineage"]
    found.facts = {"id": bundle.id, "created": bundle.account["created"], "counts": bundle.account["counts"]}
    found.differs([what for what in run if lineage.get(what) != run[what]])
    return found


def differing_settings(account: Path, config: EvaluateConfig) -> list[str]:
    """The keys of [evaluate] with which an evaluation was measured otherwise than `config` asks for."""
    try:
        measured = json.loads(account.read_text(encoding="utf-8"))["provenance"]["evaluate"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    asked = config.model_dump(mode="json", exclude={"memory_mb", "features"})
    return [f"settings: {key}" for key in asked if measured.get(key) != asked[key]]


def _changed_items(config: CatalogConfig, stored: pl.Series, touched: bool | None) -> list[str]:
    try:
        listed = read_catalog(config).item_ids
    except (InputError, RecsysInputError, OSError) as error:
        return [f"the catalogue cannot be read: {error}"]
    ours, theirs = set(listed.cast(pl.String)), set(stored.cast(pl.String))
    counts = {"new": len(ours - theirs), "gone": len(theirs - ours)}
    found = [f"items: {count:,} {what}" for what, count in counts.items() if count]
    if not found and touched:
        found = ["items: the catalogue was written to since the last run, with the same ids"]
    return found
