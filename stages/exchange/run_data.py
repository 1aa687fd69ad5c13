"""What a run holds for others: its split log, its items, their features, and the vectors of its model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from ...features.catalog import Catalog, read_catalog
from ...features.config import CatalogConfig
from ...features.errors import InputError
from ...features.store import FeatureStore
from ...recsys.cleaning import used_columns
from ...recsys.config import InteractionsConfig
from ...recsys.interactions import Dataset
from ..bundle import CONFIG, Bundle, read_bundle
from ..dataset import digest_dataset, load_dataset, read_log
from .notes import Kind, Notes, kind_of

_FILE_NAME = re.compile(r"\w[\w.+-]*")
BLOCK = 2**14  # rows of features in memory at a time
_MERGED = {"validation_cold": "validation", "test_cold": "test"}  # others know no splits of cold items


@dataclass(frozen=True)
class RunData:
    """A run folder with the config that it was made with; what is not asked for is not read."""

    folder: Path
    interactions: InteractionsConfig | None
    catalog: CatalogConfig | None
    store: FeatureStore | None
    used: Callable[[pl.DataFrame], pl.DataFrame] | None = (
        None  # what of the log it may learn from; default: all
    )

    @cached_property
    def dataset(self) -> Dataset:
        """The log as the run split it; InputError where the model was trained on another one."""
        dataset = load_dataset(self.interactions, self.store, self._raw_log)
        if self.bundle and self.bundle.config["lineage"].get("interactions") != digest_dataset(dataset):
            raise InputError(
                f"{self.folder / 'model'} was trained on other interactions than those that its config leads "
                "to now; run `mmrec run` again, then export"
            )
        return dataset

    @cached_property
    def bundle(self) -> Bundle | None:
        """The model; None where the run has none yet."""
        folder = self.folder / "model"
        return read_bundle(folder) if (folder / CONFIG).is_file() else None

    @cached_property
    def item_ids(self) -> pl.Series:
        """Of the features, of the model or else of the log, in this order."""
        if self.store is not None:
            if self.bundle is not None and not self.bundle.item_ids.equals(self.store.item_ids):
                raise InputError(
                    f"{self.store.folder} has other items than {self.folder / 'model'}, which was trained "
                    "before they were extracted; run `mmrec train` first"
                )
            return self.store.item_ids
        return self.dataset.item_ids if self.bundle is None else self.bundle.item_ids

    @cached_property
    def views(self) -> list[str]:
        return self.store.views if self.store is not None else []

    @cached_property
    def fields(self) -> pl.DataFrame:
        """What the catalogue says of `item_ids`; InputError where it has changed since."""
        if self.catalog is None:
            return pl.DataFrame()
        catalog: Catalog = read_catalog(self.catalog)
        if not catalog.item_ids.equals(self.item_ids):
            raise InputError(
                f"{self.catalog.items} is not the catalogue that {self.folder} was made from: it has "
                f"{len(catalog)} items, the run {len(self.item_ids)}, or in another order; "
                "run `mmrec run` again"
            )
        return catalog.fields

    @cached_property
    def log(self) -> pl.DataFrame:
        """Interactions that the run kept: user_id, item_id, split and, where known, rating and timestamp."""
        data = self.dataset
        parts = [
            pl.DataFrame(
                {
                    "user_id": data.user_ids.gather(pairs.user_idx),
                    "item_id": data.item_ids.gather(pairs.item_idx),
                    "split": [_MERGED.get(split, split)] * len(pairs),
                },
                schema_overrides={"split": pl.String},
            )
            for split, pairs in data.splits.items()
        ]
        pairs = pl.concat(parts)
        known = self._known_of_pairs(pairs)
        return pairs.join(known, on=["user_id", "item_id"], how="left", maintain_order="left")

    @cached_property
    def _raw_log(self) -> pl.DataFrame:
        log = read_log(self.interactions)
        return log if self.used is None else self.used(log)

    def _known_of_pairs(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """Rating and time of every pair: those of its earliest row, which is the one that cleaning keeps."""
        config = self.interactions
        assert config is not None  # there is a log
        used = used_columns(self._raw_log, config)
        wanted = {"timestamp": config.timestamp, "rating": config.rating}
        raw = {
            role: self._raw_log[name or role]
            for role, name in wanted.items()
            if (name or role) in self._raw_log.columns
        }
        table = pl.DataFrame({"user_id": used["user"], "item_id": used["item"], **raw})
        if "time" in used.columns:
            table = table.with_columns(used["time"].alias("_time")).sort("_time", maintain_order=True)
        for key in ("user_id", "item_id"):
            if table[key].dtype != pairs[key].dtype:
                table = table.with_columns(pl.col(key).cast(pairs[key].dtype, strict=False))
        if config.min_rating is not None:
            table = table.filter(pl.col("rating") >= config.min_rating)
        return table.drop("_time", strict=False).unique(
            ["user_id", "item_id"], keep="first", maintain_order=True
        )

    def blocks(
        self, view: str, item_ids: pl.Series | None = None, rows: int = BLOCK
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The vectors of a view (n, dim) float16 and which are there (n,), block by block, as the store has
        them."""
        assert self.store is not None  # it has views
        matrix, present = self.store.read(view, item_ids)
        for start in range(0, len(matrix), rows):
            yield matrix[start : start + rows], present[start : start + rows]

    def named_views(self, chosen: Mapping[str, str]) -> dict[str, str]:
        """What every view is called in an export, by default its own name; InputError for one that is not
        there, or a name that no file can have."""
        names = dict(chosen) or {view: view for view in self.views}
        if names and self.store is None:
            raise InputError(
                f"{self.folder} has no features, so there is no view {next(iter(names.values()))}"
            )
        for name, view in names.items():
            if self.store is not None:
                self.store.dim(view)  # names the nearest one
            if not _FILE_NAME.fullmatch(name):
                raise InputError(
                    f"view {view!r} cannot become a file called {name!r}; pass --view NAME={view}"
                )
        return names

    def notes(self, format_name: str, views: dict[str, str]) -> Notes:
        """What an importer needs to make of the files what this run has."""
        users: Kind | None = None
        columns: tuple[str, ...] | None = None
        if self.interactions is not None:
            users = kind_of(self.dataset.user_ids)
            columns = tuple(name for name in ("rating", "timestamp") if name in self.log.columns)
        space = self.store.manifest["space"] if self.store is not None else {}
        return Notes(format_name, users, kind_of(self.item_ids), columns, views, space)
