"""Lists as a Parquet file of one row per place, written block by block and there as a whole or not at all."""

from __future__ import annotations

import glob
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ...features.files import atomic_path
from ...recsys.ranking import Ranked

_ABANDONED = 3600.0  # seconds without a write after which an unfinished file is a killed job's


class ListWriter:
    """Counts what it writes: `rows`, and how many lists were `short` (of less than k) or `empty`."""

    def __init__(self, writer: pq.ParquetWriter, keys: pl.Series, items: pl.Series, k: int) -> None:
        self._writer, self._keys, self._items, self._k = writer, keys.to_arrow(), items.to_arrow(), k
        self.rows = self.short = self.empty = 0

    def write(self, idx: np.ndarray, ranked: Ranked) -> None:
        """One row group with the lists (n, k) of the keys with these positions."""
        found = ranked.items >= 0
        lengths = found.sum(axis=1)
        row, place = np.nonzero(found)
        schema = self._writer.schema
        columns = [
            self._keys.take(pa.array(idx[row])),
            pa.array((place + 1).astype(np.int32)),
            self._items.take(pa.array(ranked.items[row, place])),
            pa.array(ranked.scores[row, place]),
        ]
        columns = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
        if len(row):
            self._writer.write_table(pa.table(columns, schema=schema), row_group_size=len(row))
        self.rows += len(row)
        self.short += int((lengths < self._k).sum())
        self.empty += int((lengths == 0).sum())


@contextmanager
def list_file(
    path: Path, keys: pl.Series, items: pl.Series, names: tuple[str, str], k: int, about: Mapping[str, Any]
) -> Iterator[ListWriter]:
    """Write the columns `names[0]`, rank, `names[1]`, score; `about` stands in the file's metadata as JSON
    under `mmrec`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    fields = [
        pa.field(names[0], keys.to_arrow().type),
        pa.field("rank", pa.int32()),
        pa.field(names[1], items.to_arrow().type),
        pa.field("score", pa.float32()),
    ]
    schema = pa.schema(fields, metadata={"mmrec": json.dumps(about)})
    with atomic_path(path) as unfinished, pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        yield ListWriter(writer, keys, items, k)


def _remove_abandoned(path: Path) -> None:
    """What a killed job has left of this very file."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if time.time() - leftover.stat().st_mtime > _ABANDONED:
            leftover.unlink(missing_ok=True)
