"""Reading the feature store: any view, for any items, in the order asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .errors import InputError, first_line
from .files import digest_json, file_sha256
from .manifest import read_manifest
from .shard_reader import Shard, damaged, intact_files
from .tables import did_you_mean
from .vector_cache import cached_view
from .vector_file import Vectors

CACHE = ".cache"
_SCATTERED = 4  # rows of shards to read for each row asked for, past which a copy of the view is worth making


def ledger_is_intact(folder: Path, manifest: dict[str, Any]) -> bool:
    """Whether the list of failures is there, with its checksum if the manifest has one (not in schema 1)."""
    path = folder / manifest["failures"]
    expected = manifest.get("failures_sha256")
    return path.is_file() and (expected is None or file_sha256(path) == expected)


class FeatureStore:
    """Read access to the store in `folder`; rows are in the order in which the catalogue had them."""

    def __init__(self, folder: str | Path, manifest: dict[str, Any] | None = None) -> None:
        """Raises FileNotFoundError or InputError when there is no complete store."""
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder) if manifest is None else manifest
        self._key = digest_json(self.manifest)[:16]
        self._shards = [Shard(self.folder, entry) for entry in self.manifest["shards"]]

    def __len__(self) -> int:
        return self.manifest["rows"]

    @property
    def views(self) -> list[str]:
        return list(self.manifest["views"])

    @property
    def similarities(self) -> list[str]:
        """The text views that `similarity` knows."""
        return list(self.manifest["similarity"])

    @cached_property
    def item_ids(self) -> pl.Series:
        return self._column("item_id")

    @cached_property
    def content_hashes(self) -> pl.Series:
        return self._column("content_hash")

    def dim(self, view: str) -> int:
        """The size of the view's vectors; InputError for a view that the store lacks."""
        if view not in self.manifest["views"]:
            hint, known = did_you_mean(view, self.views), ", ".join(self.views)
            raise InputError(f"{self.folder}: no view '{view}'{hint}; it holds {known}")
        return self.manifest["views"][view]["dim"]

    def read(self, view: str, item_ids: pl.Series | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(n, dim) float16, C-contiguous, zero where absent, and present (n,) bool, in the order asked for.

        All rows in their own order come as a read-only memory map. Raises InputError that names items
        without a row, or a damaged shard.
        """
        shape = (len(self), self.dim(view))
        rows = self._rows_of(item_ids)
        matrix, present = cached_view(
            self.folder / CACHE, self._key, view, shape, lambda: self._blocks(view, shape[1])
        )
        return (matrix, present) if rows is None else (np.ascontiguousarray(matrix[rows]), present[rows])

    def take(self, view: str, rows: np.ndarray) -> Vectors:
        """The vectors of some rows by number (n,): from the shards that have them where those are few."""
        dim = self.dim(view)
        ends = np.cumsum([len(shard) for shard in self._shards])
        owners = np.searchsorted(ends, rows, side="right")
        touched = np.unique(owners)
        if sum(len(self._shards[owner]) for owner in touched) > _SCATTERED * len(rows):
            matrix, present = self.read(view)
            return matrix[rows], present[rows]
        values, present = np.empty((len(rows), dim), np.float16), np.empty(len(rows), bool)
        for owner in touched:
            asked = np.flatnonzero(owners == owner)
            within = rows[asked] - (ends[owner] - len(self._shards[owner]))
            of_shard, mask = self._shards[owner].vectors(view, dim)
            values[asked], present[asked] = of_shard[within], mask[within]
        return values, present

    def rows(self, item_ids: pl.Series) -> np.ndarray:
        """The store's row of each id, (n,) int64; InputError that names items without one."""
        rows = self._rows_of(item_ids)
        return np.arange(len(self)) if rows is None else rows

    def similarity(self, view: str, item_ids: pl.Series | None = None) -> np.ndarray:
        """(n,) float32 cosine of the text view ("title") with the image, NaN where either is missing."""
        if view not in self.similarities:
            known = ", ".join(self.similarities) or "none"
            raise InputError(f"{self.folder}: no similarity for text view '{view}'; it holds {known}")
        rows = self._rows_of(item_ids)
        cosine = np.concatenate([shard.similarity(view) for shard in self._shards])
        return cosine if rows is None else cosine[rows]

    def failures(self) -> pl.DataFrame:
        """The ledger: item_id, view, reason, message; InputError when it is gone or damaged."""
        path = self.folder / self.manifest["failures"]
        try:
            if not ledger_is_intact(self.folder, self.manifest):
                raise ValueError("it is gone or does not have its checksum")
            return pl.read_parquet(path, glob=False)
        except (OSError, pl.exceptions.PolarsError, ValueError) as error:
            raise InputError(
                f"{path}: damaged list of failures ({first_line(error)}). "
                "Run `mmrec extract` again to rebuild it."
            ) from error

    def verify(self) -> None:
        """Check every file against its checksum; InputError names all damaged shards."""
        entries = self.manifest["shards"]
        intact = intact_files(self.folder, entries)
        bad = [entry["file"] for entry in entries if entry["file"] not in intact]
        if bad:
            raise damaged(self.folder / bad[0], f"wrong checksum in {len(bad)} shards: {', '.join(bad)}")
        self.failures()

    def _column(self, name: str) -> pl.Series:
        return pl.concat([pl.Series(name, shard.column(name)) for shard in self._shards])

    def _blocks(self, view: str, dim: int) -> Iterator[Vectors]:
        for shard in self._shards:
            yield shard.vectors(view, dim)

    def _rows_of(self, item_ids: pl.Series | None) -> np.ndarray | None:
        """The store's row of each id; None when that is every row in its own order."""
        if item_ids is None or item_ids.equals(self.item_ids):
            return None
        if (item_ids.dtype == pl.String) != (self.item_ids.dtype == pl.String):
            raise InputError(
                f"{self.folder} holds ids of type {self.item_ids.dtype}, asked for {item_ids.dtype}; "
                "use the same type in the catalogue and in the interactions"
            )
        known = pl.DataFrame({"id": self.item_ids}).with_row_index("row")
        wanted = pl.DataFrame({"id": item_ids.cast(self.item_ids.dtype)})
        rows = wanted.join(known, on="id", how="left", maintain_order="left")["row"]
        missing = item_ids.filter(rows.is_null())
        if len(missing):
            raise InputError(
                f"{self.folder}: {len(missing)} of {len(item_ids)} items have no feature row "
                f"(first: {', '.join(map(repr, missing.head(5)))}). "
                "Add them to the catalogue and run `mmrec extract`."
            )
        return rows.to_numpy().astype(np.int64)
