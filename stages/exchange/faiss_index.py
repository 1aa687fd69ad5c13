"""The run's FAISS index under the items' own ids, for any program that has FAISS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import faiss
import numpy as np
import polars as pl

from ...features.errors import InputError
from ...features.tables import write_parquet
from ..index import ITEMS, open_index
from .names import ExportFormat
from .notes import Notes
from .run_data import RunData

_IDS = "ids.parquet"


def write(run: RunData, folder: Path, name: str, chosen: Mapping[str, str]) -> Notes:
    """items.faiss and, where items are called by strings, ids.parquet (row, item_id).

    With integer ids the index is an IndexIDMap2 whose searches return them. Queries are user vectors, by
    inner product, filled up with zeros to the dimensions of the index. Raises InputError without an index.
    """
    if run.bundle is None:
        raise InputError(f"{run.folder} has no model, so there is no index; run `mmrec train` first")
    if chosen:
        raise InputError("--view names features, but the index is over the model's vectors; leave it out")
    inner, _ = open_index(run.folder / "index", run.bundle, "cpu")
    ids = run.bundle.item_ids
    if not ids.dtype.is_integer():
        (folder / ITEMS).write_bytes(inner.to_bytes())
        write_parquet(folder / _IDS, pl.DataFrame({"row": np.arange(len(ids)), "item_id": ids}))
        return run.notes(ExportFormat.faiss, {})
    index = faiss.deserialize_index(np.frombuffer(inner.to_bytes(), np.uint8))
    named = faiss.IndexIDMap2(faiss.IndexFlatIP(index.d))  # empty: FAISS gives ids while vectors are added,
    named.index, named.ntotal, named.metric_type = index, index.ntotal, index.metric_type  # these are there
    faiss.copy_array_to_vector(ids.to_numpy().astype(np.int64), named.id_map)
    named.construct_rev_map()
    (folder / ITEMS).write_bytes(faiss.serialize_index(named).tobytes())
    return run.notes(ExportFormat.faiss, {})
