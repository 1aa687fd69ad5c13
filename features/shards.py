"""One shard of the feature store: a Parquet file that says by itself whose rows it holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import InputError, first_line
from .files import digest_json

_METADATA = b"mmrec"
_SIMILARITY = "similarity."


@dataclass(frozen=True, slots=True)
class Failure:
    """One line of the failure ledger: why a view of an item is null."""

    item_id: int | str
    view: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ShardRows:
    """The items of one shard; row i of every part is `item_ids[i]`."""

    item_ids: pl.Series
    content_hashes: list[str]
    vectors: dict[str, tuple[np.ndarray, np.ndarray]]  # "image.full" -> ((n, dim) float, present (n,) bool)
    similarity: dict[str, np.ndarray] = field(default_factory=dict)  # "title" -> (n,), NaN is stored as null
    failures: list[Failure] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # summed over the shards in the manifest


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """What the footer of a shard file says about it."""

    key: str
    dims: dict[str, int]
    present: dict[str, int]  # view -> rows that have it
    similarity: list[str]
    failures: list[Failure]
    counts: dict[str, int]


def shard_key(space_digest: str, item_ids: pl.Series, content_hashes: Sequence[str]) -> str:
    """The digest of all that determines a shard's rows."""
    return digest_json([space_digest, item_ids.to_list(), list(content_hashes)])


def write_shard_file(path: Path, rows: ShardRows, key: str) -> ShardInfo:
    """Write the rows as Parquet, vectors as float16; InputError for a vector that float16 cannot hold."""
    columns: dict[str, pa.Array] = {
        "item_id": rows.item_ids.to_arrow(),
        "content_hash": pa.array(rows.content_hashes, pa.string()),
    }
    if pa.types.is_large_string(columns["item_id"].type):
        columns["item_id"] = columns["item_id"].cast(pa.string())
    for view, (values, present) in rows.vectors.items():
        columns[view] = _vector_column(view, values, present, rows.item_ids)
    for name, cosine in rows.similarity.items():
        columns[_SIMILARITY + name] = pa.array(cosine.astype(np.float32), mask=np.isnan(cosine))
    info = ShardInfo(
        key=key,
        dims={view: values.shape[1] for view, (values, _) in rows.vectors.items()},
        present={view: int(present.sum()) for view, (_, present) in rows.vectors.items()},
        similarity=list(rows.similarity),
        failures=rows.failures,
        counts=rows.counts,
    )
    metadata = {_METADATA: json.dumps(dataclasses.asdict(info))}
    table = pa.table(columns).replace_schema_metadata(metadata)
    # One row group, no dictionary, no compression: embeddings barely compress.
    pq.write_table(
        table,
        path,
        row_group_size=max(len(rows.item_ids), 1),
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return info


def read_shard_info(path: Path) -> ShardInfo | None:
    """The footer's account of the shard, or None when the file is absent, damaged or not ours."""
    try:
        account = json.loads((pq.read_metadata(path).metadata or {})[_METADATA])
        account["failures"] = [Failure(**failure) for failure in account["failures"]]
        return ShardInfo(**account)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """The columns, their pages checked against their checksums; InputError names a damaged file."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns=list(columns)).select(columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise damaged(path, first_line(error)) from error


def read_vectors(path: Path, view: str, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, dim) float16, zero where the view is null, and present (n,) bool."""
    column = read_columns(path, [view]).column(0).combine_chunks()
    present = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)  # the present rows alone
    if present.all():
        return values, present
    matrix = np.zeros((len(present), dim), np.float16)
    matrix[present] = values
    return matrix, present


def read_similarity(path: Path, name: str) -> np.ndarray:
    """(n,) float32, NaN where null."""
    column = read_columns(path, [_SIMILARITY + name]).column(0)
    return column.to_numpy().astype(np.float32)


def damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: damaged shard ({what}). Run `mmrec extract` again to rebuild its rows.")


def _vector_column(view: str, values: np.ndarray, present: np.ndarray, item_ids: pl.Series) -> pa.Array:
    if values.ndim != 2 or not len(values) == len(present) == len(item_ids):
        raise ValueError(f"{view}: vectors {values.shape}, mask {present.shape} for {len(item_ids)} items")
    with np.errstate(over="ignore"):
        halves = np.ascontiguousarray(values, dtype=np.float16)
    bad = np.flatnonzero(present & ~np.isfinite(halves).all(axis=1))
    if len(bad):
        raise InputError(
            f"{view}: {len(bad)} vectors hold NaN or values past float16's 65504 "
            f"(first: item {item_ids[int(bad[0])]!r}); scale or repair these features"
        )
    mask = None if present.all() else pa.array(~present)
    return pa.FixedSizeListArray.from_arrays(pa.array(halves.ravel()), values.shape[1], mask=mask)
