"""The model bundle: weights, id maps, vectors and metrics in one folder that is complete or absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from ..features.errors import InputError, first_line
from ..features.files import fresh_folder, recover_folder, write_json
from ..features.tensors import save_tensors
from ..recsys.models.base import Vectors
from .lineage import file_sizes

SCHEMA = 1
CONFIG = "config.json"  # written last: a folder without it is not a bundle
_ROWS_PER_GROUP = 8192


@dataclass(frozen=True, slots=True)
class Bundle:
    """A trained recommender as read back: it needs neither the training data nor the model's code."""

    config: dict[str, Any]  # model, dim, options, lineage, best epoch
    user_ids: pl.Series
    item_ids: pl.Series
    vectors: Vectors


def write_bundle(
    folder: Path,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    tensors: Mapping[str, Any],
    ids: tuple[pl.Series, pl.Series],
    vectors: Vectors,
) -> None:
    """Replace the bundle `folder` by a new one; a reader sees the old one or the new one."""
    dim = vectors.items.shape[1]
    with fresh_folder(folder) as fresh:
        save_tensors(fresh / "model.safetensors", tensors)
        _write_vectors(fresh / "users.parquet", "user_id", ids[0], vectors.users, dim)
        _write_vectors(fresh / "items.parquet", "item_id", ids[1], vectors.items, dim)
        write_json(fresh / "metrics.json", metrics)
        account = {
            "schema": SCHEMA,
            **config,
            "vectors": _digest(vectors),
            "files": file_sizes(fresh.iterdir()),
        }
        write_json(fresh / CONFIG, account)


def read_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`; FileNotFoundError where none is finished, InputError for a damaged one."""
    config = _config(folder)
    with _damage(folder):
        user_ids, users = _read_vectors(folder / "users.parquet", "user_id")
        item_ids, items = _read_vectors(folder / "items.parquet", "item_id")
        return Bundle(config, user_ids, item_ids, Vectors(users, np.asarray(items)))


@dataclass(frozen=True, slots=True)
class OpenBundle:
    """A bundle whose user vectors stay on the disk until they are asked for. Their file is held open: a model
    that takes the folder's place meanwhile does not mix in."""

    folder: Path
    config: dict[str, Any]
    user_ids: pl.Series
    item_ids: pl.Series
    items: np.ndarray  # (n_items, d) float32
    user_file: pq.ParquetFile

    @property
    def has_histories(self) -> bool:
        """Whether a user's vector is the history, with an entry per item, as in ItemKNN and EASE."""
        return "indices" in self.user_file.schema_arrow.names

    def users(self, rows: int) -> Iterator[Any]:
        """The user vectors in the order of `user_ids`, at most `rows` at a time: float32 arrays, or CSR."""
        with _damage(self.folder):
            schema = self.user_file.schema_arrow
            names, dim = [name for name in schema.names if name != "user_id"], _dim(schema)
            for batch in self.user_file.iter_batches(rows, columns=names):
                yield _vectors(pa.table(batch), dim)


def open_bundle(folder: Path) -> OpenBundle:
    """The bundle in `folder` for reading user by user; errors are those of `read_bundle`."""
    config = _config(folder)
    with _damage(folder):
        file = pq.ParquetFile(folder / "users.parquet")
        user_ids = pl.Series("user_id", file.read(columns=["user_id"])["user_id"])
        item_ids, items = _read_vectors(folder / "items.parquet", "item_id")
    if _config(folder) != config:
        raise InputError(f"{folder}: another model took this one's place while it was read; try again")
    return OpenBundle(folder, config, user_ids, item_ids, np.asarray(items), file)


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, AttributeError) as error:
        raise InputError(f"{folder}: damaged model ({first_line(error)}); run `mmrec train` again") from error


def _config(folder: Path) -> dict[str, Any]:
    recover_folder(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no trained model here; run `mmrec train` first")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        schema = config.get("schema")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder}: damaged model ({first_line(error)}); run `mmrec train` again") from error
    if schema != SCHEMA:
        raise InputError(f"{path}: schema {schema}, this version reads {SCHEMA}; train again")
    return config


def _digest(vectors: Vectors) -> str:
    """Of all user and item vectors: what an index and an evaluation are made from."""
    digest = hashlib.blake2b(np.ascontiguousarray(vectors.items).data, digest_size=16)
    users = vectors.users
    parts = (users.data, users.indices, users.indptr) if isinstance(users, sparse.csr_matrix) else (users,)
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _write_vectors(
    path: Path, key: str, ids: pl.Series, vectors: np.ndarray | sparse.csr_matrix, dim: int
) -> None:
    """One row per id: `vector` (fixed-size list of float32), or `indices` and `values` for sparse rows."""
    id_column = ids.to_arrow()
    id_field = pa.field(key, id_column.type)
    if isinstance(vectors, sparse.csr_matrix):
        fields = [
            id_field,
            pa.field("indices", pa.list_(pa.int32())),
            pa.field("values", pa.list_(pa.float32())),
        ]
        columns = [
            pa.ListArray.from_arrays(vectors.indptr.astype(np.int32), values)
            for values in (
                pa.array(vectors.indices.astype(np.int32)),
                pa.array(vectors.data.astype(np.float32)),
            )
        ]
    else:
        fields = [id_field, pa.field("vector", pa.list_(pa.float32(), dim))]
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        columns = [pa.FixedSizeListArray.from_arrays(flat, dim)]
    schema = pa.schema(fields, metadata={"dim": str(dim)})
    table = pa.table([id_column, *columns], schema=schema)
    pq.write_table(table, path, row_group_size=_ROWS_PER_GROUP, compression="zstd", use_dictionary=False)


def _read_vectors(path: Path, key: str) -> tuple[pl.Series, np.ndarray | sparse.csr_matrix]:
    table = pq.read_table(path)
    return pl.Series(key, table[key]), _vectors(table, _dim(table.schema))


def _vectors(table: pa.Table, dim: int) -> np.ndarray | sparse.csr_matrix:
    """The rows of a table that `_write_vectors` wrote."""
    table = table.combine_chunks()
    if "vector" in table.column_names:
        flat = table["vector"].combine_chunks().flatten().to_numpy()
        return np.array(flat.reshape(len(table), dim))  # Arrow's memory is read-only
    indices, values = (table[name].combine_chunks() for name in ("indices", "values"))
    offsets = indices.offsets.to_numpy()
    parts = (values.flatten().to_numpy(), indices.flatten().to_numpy(), offsets - offsets[0])
    return sparse.csr_matrix(parts, shape=(len(table), dim))


def _dim(schema: pa.Schema) -> int:
    return int(dict(schema.metadata or {})[b"dim"])
