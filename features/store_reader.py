"""Reading the feature store: any view, for any items, in the order asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .errors import InputError, first_line
from .files import digest_json, file_sha256
from .shards import damaged, read_columns, read_similarity, read_vectors
from .tables import did_you_mean
from .vector_cache import Block, cached_view

SCHEMA = 1
MANIFEST = "manifest.json"
CACHE = ".cache"


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of the store; FileNotFoundError without one, InputError for one that is not ours."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder}: no feature store here (no {MANIFEST}); run `mmrec extract`"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path}: not valid JSON ({first_line(error)}); remove it and run `mmrec extract` again"
        ) from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"{path}: schema {schema!r}, expected {SCHEMA}; remove the folder and run `mmrec extract` again"
        )
    return manifest


def is_intact(folder: Path, shard: dict[str, Any]) -> bool:
    """Whether the file of a manifest's shard entry is there with its checksum."""
    path = folder / shard["file"]
    return path.is_file() and path.stat().st_size == shard["bytes"] and file_sha256(path) == shard["sha256"]


class FeatureStore:
    """Read access to the store in `folder`; rows are in the order in which the catalogue had them."""

    def __init__(self, folder: str | Path, manifest: dict[str, Any] | None = None) -> None:
        """Raises FileNotFoundError or InputError when there is no complete store."""
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder) if manifest is None else manifest
        self._key = digest_json(self.manifest)[:16]
        self._verified: set[str] = set()
        for shard in self._shards:
            path = self.folder / shard["file"]
            if not path.is_file():
                raise damaged(path, "the file is gone")

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
        cosine = np.concatenate([read_similarity(self._checked(shard), view) for shard in self._shards])
        return cosine if rows is None else cosine[rows]

    def failures(self) -> pl.DataFrame:
        """The ledger: item_id, view, reason, message."""
        return pl.read_parquet(self.folder / self.manifest["failures"], glob=False)

    def verify(self) -> None:
        """Check every shard against its checksum; InputError names all damaged ones."""
        bad = [shard["file"] for shard in self._shards if not is_intact(self.folder, shard)]
        if bad:
            raise damaged(self.folder / bad[0], f"wrong checksum in {len(bad)} shards: {', '.join(bad)}")

    @property
    def _shards(self) -> list[dict[str, Any]]:
        return self.manifest["shards"]

    def _column(self, name: str) -> pl.Series:
        tables = [read_columns(self.folder / shard["file"], [name]) for shard in self._shards]
        return pl.concat([pl.Series(name, table.column(0)) for table in tables])

    def _blocks(self, view: str, dim: int) -> Iterator[Block]:
        for shard in self._shards:
            yield read_vectors(self._checked(shard), view, dim)

    def _checked(self, shard: dict[str, Any]) -> Path:
        """The shard's path, once its checksum has been found right."""
        path = self.folder / shard["file"]
        if shard["file"] not in self._verified:
            if not is_intact(self.folder, shard):
                raise damaged(path, f"its checksum is not that of {MANIFEST}")
            self._verified.add(shard["file"])
        return path

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
