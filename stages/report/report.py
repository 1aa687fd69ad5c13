"""The last stage: everything that a run left, and samples of what it does, as one page."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ...features.catalog import Catalog
from ...features.config import ExtractConfig
from ...features.errors import InputError
from ...features.store import FeatureStore
from ...features.versions import library_versions
from ...recsys.config import EvaluateConfig
from ...recsys.interactions import Dataset
from ...recsys.ranking import Csr, Ranked
from ..bundle import read_bundle
from ..dataset import digest_dataset
from ..index import open_index
from ..lineage import read_lineage
from ..measured import main_cutoff
from ..similarity import similarity_report
from .breakdowns import breakdowns_section
from .cost import Record, cost_section, notice
from .failures import examples, failures_section
from .items import ItemCards, described
from .mismatches import mismatches_section
from .nearest import Neighbourhood, neighbourhoods, well_known
from .neighbours import neighbours_section
from .page import Title, page
from .parts import LeftOut, Section, count
from .provenance import lineage_section
from .results import main_split, results_section, verdict
from .run_files import RunFiles, or_why
from .sample_users import SampleUser, sample_users
from .thumbnails import thumbnails
from .training import training_section
from .users import users_section

_NEAREST = 5  # neighbours of an item by a view
_MOST_VIEWS = 8


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """How much of the samples is shown."""

    users: int = 6  # whose lists are shown
    items: int = 3  # whose neighbours are shown
    worst: int = 12  # items whose texts fit their picture worst
    length: int = 10  # of a list
    label: str | None = None  # column of the catalogue that names items


@dataclass(frozen=True, slots=True)
class Sources:
    """What the report draws on; a text says why a source is not there."""

    run: RunFiles
    store: FeatureStore | str
    catalog: Catalog | str
    dataset: Dataset | str
    extract: ExtractConfig
    evaluate: EvaluateConfig
    index_device: str
    records: Sequence[Record]  # of `mmrec run`, oldest first
    config: str | None  # as TOML


@dataclass(frozen=True, slots=True)
class Report:
    """The document, and what it holds."""

    html: str
    sections: list[str]
    left_out: dict[str, str]  # title -> why
    pictures: int


@dataclass(frozen=True, slots=True)
class _Samples:
    """Users and items that are shown; a text says why there are none."""

    split: str | None
    users: list[SampleUser] | str
    neighbours: list[Neighbourhood] | str
    similarity: Mapping[str, Any] | str
    failures: pl.DataFrame | str

    def item_ids(self) -> Iterable[str]:
        """Of all items that are shown, as text, some more than once."""
        for user in self.users if not isinstance(self.users, str) else ():
            yield from map(str, (*user.had, *(item for item, _ in user.listed), *user.missed))
        for item in self.neighbours if not isinstance(self.neighbours, str) else ():
            yield str(item.item_id)
            yield from (str(other) for nearest in item.views.values() for other, _ in nearest)
        if not isinstance(self.similarity, str):
            yield from (str(row["item_id"]) for row in self.similarity["worst"])


def make_report(sources: Sources, options: ReportOptions) -> Report:
    """The page about a run. Raises InputError for a column of names that the catalogue lacks."""
    samples = _samples(sources, options)
    cards = _cards(sources, samples, options)
    run, store = sources.run, sources.store
    manifest = None if isinstance(store, str) else store.manifest
    views = {} if manifest is None else manifest["views"]
    parts: list[Section | LeftOut] = [
        results_section(run.evaluation),
        breakdowns_section(run.evaluation),
        users_section(samples.users, samples.split, cards),
        neighbours_section(
            samples.neighbours, isinstance(sources.dataset, Dataset), max(len(views) - _MOST_VIEWS, 0), cards
        ),
        mismatches_section(samples.similarity, cards),
        failures_section(samples.failures, views, 0 if manifest is None else manifest["rows"], cards),
        training_section(run.training),
        cost_section(sources.records),
        lineage_section(run, manifest, sources.config),
    ]
    short = notice(sources.records) + (verdict(run.evaluation) if run.evaluation else [])
    html = page(_title(sources), short, parts)
    return Report(
        html=html,
        sections=[part.title for part in parts if isinstance(part, Section)],
        left_out={part.title: part.why for part in parts if isinstance(part, LeftOut)},
        pictures=html.count("<img "),
    )


def _samples(sources: Sources, options: ReportOptions) -> _Samples:
    split = None if sources.run.evaluation is None else main_split(sources.run.evaluation)
    users = or_why(lambda: _users(sources, split, options))
    store = sources.store
    if isinstance(store, str):
        return _Samples(split, users, store, store, store)
    return _Samples(
        split,
        users,
        or_why(lambda: _neighbours(store, sources.dataset, options)),
        or_why(lambda: _similarity(store, options)),
        or_why(store.failures),
    )


def _users(sources: Sources, split: str | None, options: ReportOptions) -> list[SampleUser]:
    run, dataset = sources.run, sources.dataset
    if isinstance(dataset, str):
        raise InputError(dataset)
    bundle = read_bundle(run.folder / "model")
    if bundle.config["lineage"]["interactions"] != digest_dataset(dataset):
        raise InputError("the interactions have changed since the model was trained; use `mmrec run`")
    lineage = read_lineage(run.folder / "evaluation.json", "provenance", "lineage")
    if run.evaluation is None or split is None or lineage is None:
        raise InputError("the evaluation is missing or damaged; run `mmrec evaluate`")
    if lineage["vectors"] != bundle.config["vectors"]:
        raise InputError("the evaluation is of another model; run `mmrec evaluate`")
    index, _ = open_index(run.folder / "index", bundle, sources.index_device)
    vectors = bundle.vectors.users

    def search(user_idx: np.ndarray, k: int, exclude: Csr, candidates: np.ndarray | None) -> Ranked:
        return index.search(vectors[user_idx], k, exclude, candidates)

    k = main_cutoff(run.evaluation["splits"][split]["metrics"])
    metrics = [f"ndcg@{k}", f"recall@{k}"]
    per_user = pl.read_parquet(
        run.folder / "per_user.parquet", glob=False, columns=["user_id", "split", *metrics]
    )
    return sample_users(
        per_user, split, metrics, dataset, search, sources.evaluate, options.users, options.length
    )


def _neighbours(store: FeatureStore, dataset: Dataset | str, options: ReportOptions) -> list[Neighbourhood]:
    popularity = None
    if not isinstance(dataset, str):
        counts = np.bincount(dataset.splits["train"].item_idx, minlength=dataset.n_items)
        popularity = pl.DataFrame({"item_id": dataset.item_ids, "n": counts})
    rows = well_known(store, popularity, options.items)
    return neighbourhoods(store, rows, store.views[:_MOST_VIEWS], _NEAREST)


def _similarity(store: FeatureStore, options: ReportOptions) -> Mapping[str, Any]:
    return similarity_report(store, options.worst).facts


def _cards(sources: Sources, samples: _Samples, options: ReportOptions) -> ItemCards:
    catalog = sources.catalog
    if isinstance(catalog, str):
        return ItemCards()
    shown = list(dict.fromkeys(samples.item_ids()))
    ledger = samples.failures
    failed = [] if isinstance(ledger, str) else examples(ledger)["item_id"].cast(pl.String).to_list()
    cards = described(catalog, [*shown, *failed], options.label)
    cards.pictures = thumbnails(catalog, shown, sources.extract)
    return cards


def _title(sources: Sources) -> Title:
    model = sources.run.model or {}
    about = [str(model.get("model") or (sources.run.evaluation or {}).get("model", "no model"))]
    dataset = sources.dataset
    if not isinstance(dataset, str):
        pairs = sum(len(pairs) for pairs in dataset.splits.values())
        about += [
            count(dataset.n_users, "user"),
            count(dataset.n_items, "item"),
            count(pairs, "interaction"),
        ]
    if model.get("views"):
        about.append(count(len(model["views"]), "feature view"))
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    version = library_versions(["mmrec"]).get("mmrec", "")
    name = sources.run.folder.absolute().name
    return Title(
        name, " · ".join(about), f"Made {made} by mmrec {version}. Nothing is loaded from elsewhere."
    )
