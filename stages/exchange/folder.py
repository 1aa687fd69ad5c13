"""What an import makes of a peer's data: a catalogue, a log, ready-made features, a config over them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ...features.errors import InputError

log = logging.getLogger(__name__)

LOG, ITEMS, FEATURES = "interactions.parquet", "items.parquet", "features"
_LOG_COLUMNS = ("user_id", "item_id", "rating", "timestamp", "split")
_BLOCK = 2**14  # feature rows copied at a time
_NAMED = 5  # ids that an error lists


class ImportFolder:
    """Takes the log, then the items, then their features, and writes them below `folder` as they come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = {"interactions": 0, "items": 0}
        self.views: dict[str, int] = {}  # view -> dimensions
        self._item_ids: pl.Series | None = None
        self._logged: dict[int | str, None] = {}  # item ids of the log, in the order of their first row
        self._split = False
        self._catalog: dict[str, str] = {}
        self._text_views: dict[str, str] = {}

    def write_log(self, batches: Iterable[pl.DataFrame]) -> None:
        """Interactions, one row each: user_id, item_id and, where known, rating, timestamp, split.

        Rows that lack an id are left out and counted in the log. Raises InputError where no row is left.
        """
        dropped = 0

        def complete() -> Iterator[pl.DataFrame]:
            nonlocal dropped
            for batch in batches:
                whole = batch.select(name for name in _LOG_COLUMNS if name in batch.columns)
                whole = whole.drop_nulls(["user_id", "item_id"])
                dropped += len(batch) - len(whole)
                self._split = "split" in whole.columns
                self._logged.update(dict.fromkeys(whole["item_id"].unique(maintain_order=True)))
                yield whole

        self.rows["interactions"] = _write_batches(self.folder / LOG, complete())
        if dropped:
            log.warning("%d interactions lack the id of the user or the item and are left out", dropped)
        if not self.rows["interactions"]:
            raise InputError("the log holds no interaction with a user and an item; expected at least one")

    def write_items(
        self,
        batches: Iterable[pl.DataFrame],
        image: str | None = None,
        image_root: Path | None = None,
        texts: Sequence[str] = (),
    ) -> None:
        """Items, one row each: item_id and any fields; of a repeated id the first row counts.

        Items that the log alone knows come behind them, without fields. `image` is the column of image paths
        below `image_root`, or of URIs; `texts` are the columns that describe an item.
        """
        seen: dict[int | str, None] = {}
        repeated = unknown = 0

        def distinct() -> Iterator[pl.DataFrame]:
            nonlocal repeated, unknown
            schema: Mapping[str, pl.DataType] = {}
            for batch in batches:
                schema = batch.schema
                fresh = [
                    item is not None and item not in seen and not seen.update({item: None})
                    for item in batch["item_id"]
                ]
                repeated += len(batch) - sum(fresh)
                yield batch.filter(pl.Series(fresh, dtype=pl.Boolean))
            rest = [item for item in self._logged if item not in seen]
            unknown = len(rest)
            if rest:
                seen.update(dict.fromkeys(rest))
                yield pl.DataFrame({"item_id": rest}, {"item_id": schema["item_id"]}).with_columns(
                    pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name != "item_id"
                )

        self.rows["items"] = _write_batches(self.folder / ITEMS, distinct())
        self._item_ids = pl.Series("item_id", list(seen))
        if repeated:
            log.warning("%d rows of items repeat an id, or have none, and are left out", repeated)
        if unknown:
            log.warning("%d items of the log have no row of their own: they get one without fields", unknown)
        if image is not None:
            root = {} if image_root is None else {"image_root": str(image_root.absolute())}
            self._catalog = {"image": image, **root}
        if texts:
            named = {name: f"{{{name}}}" for name in texts}
            self._text_views = named if len(named) == 1 else {"all": ". ".join(named.values())}

    def write_features(self, view: str, matrix: np.ndarray, item_ids: pl.Series | None = None) -> None:
        """Ready-made features (n, d), a row of NaN where there are none; `item_ids` says whose rows they are.

        By default row i is item i. Without `write_items` before, the items are the rows' own: their ids, or
        their numbers. Raises InputError for rows of items that are not known, or of too few dimensions.
        """
        if self._item_ids is None:
            ids = np.arange(len(matrix)) if item_ids is None else item_ids
            self.write_items([pl.DataFrame({"item_id": ids})])
        assert self._item_ids is not None
        rows = self._feature_rows(view, len(matrix), item_ids)
        (self.folder / FEATURES).mkdir(exist_ok=True)
        shape = (len(rows), matrix.shape[1])
        path = self.folder / FEATURES / f"{view}.npy"
        target = np.lib.format.open_memmap(path, "w+", matrix.dtype, shape)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            values = np.asarray(matrix[np.maximum(block, 0)])
            values[block < 0] = np.nan
            target[start : start + _BLOCK] = values
        target.flush()
        self.views[view] = matrix.shape[1]

    def sections(self) -> dict[str, Any]:
        """The config of a run over what was written, with paths relative to the folder."""
        sections: dict[str, Any] = {}
        if self.views or self._catalog or self._text_views:
            sections["catalog"] = {"items": ITEMS} | ({} if self.views else self._catalog)
        if self.rows["interactions"]:
            split = {"split": "column"} if self._split else {}
            sections["interactions"] = {"path": LOG, **split}
        if self.views:  # what comes with features is not encoded again
            files = {view: f"{FEATURES}/{view}.npy" for view in self.views}
            sections["extract"] = {"image_views": [], "foreign": files}
        elif "catalog" in sections:
            sections["extract"] = {"encoder": "tiny", "text_views": self._text_views}
        sections["train"] = {"model": "freedom" if "catalog" in sections else "lightgcn"}
        return {**sections, "run": {"output": "run"}}

    def _feature_rows(self, view: str, n_rows: int, item_ids: pl.Series | None) -> np.ndarray:
        """The matrix's row of every item, -1 where it has none."""
        assert self._item_ids is not None
        known = self._item_ids
        if item_ids is None:
            if n_rows != len(known):
                raise InputError(f"'{view}' has {n_rows} rows of features for {len(known)} items")
            return np.arange(n_rows)
        if item_ids.dtype != known.dtype:
            item_ids = item_ids.cast(known.dtype, strict=False)
        if item_ids.n_unique() < len(item_ids) or item_ids.null_count():
            raise InputError(
                f"the {len(item_ids)} ids of '{view}' are not all different, or not like the items' "
                f"({known.dtype}); every row of features needs the id of one item"
            )
        rows = pl.DataFrame({"item": item_ids, "row": np.arange(n_rows)})
        found = pl.DataFrame({"item": known}).join(rows, on="item", how="left", maintain_order="left")["row"]
        strangers = item_ids.filter(~item_ids.is_in(known.implode()))
        if len(strangers):
            raise InputError(
                f"'{view}' has features of {len(strangers)} items that are not in the catalogue "
                f"(first: {', '.join(map(repr, strangers.head(_NAMED)))})"
            )
        return found.fill_null(-1).to_numpy()


def _write_batches(path: Path, batches: Iterable[pl.DataFrame]) -> int:
    """Write the batches, which have the columns of the first one, as Parquet; return the number of rows."""
    writer, rows = None, 0
    try:
        for batch in batches:
            table = batch.to_arrow()
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table.cast(writer.schema))
            rows += len(batch)
    except pa.ArrowException as error:
        raise InputError(f"the batches of {path.name} do not fit together: {error}") from error
    finally:
        if writer is not None:
            writer.close()
    return rows
