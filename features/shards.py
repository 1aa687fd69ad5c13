"""One shard of the feature store: a Parquet file that says by itself whose rows it holds."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from .errors import InputError
from .files import digest_json, file_sha256
from .vector_file import Vectors, read_footer, vector_type, write_vector_file

_ACCOUNT = "mmrec"  # the key of the footer that holds the shard's info
SIMILARITY = "similarity."
_SERIAL = 2**14  # numbers that torch converts without a second thread, which would wait for busy cores
_INFINITE = np.uint16(0x7C00)  # the exponent of infinities and NaN in float16


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
    vectors = {view: _as_stored(view, *of_view, rows.item_ids) for view, of_view in rows.vectors.items()}
    for view, (halves, _) in vectors.items():
        columns[view] = pa.nulls(len(halves), vector_type(halves.shape[1]))
    for name, cosine in rows.similarity.items():
        columns[SIMILARITY + name] = pa.array(cosine.astype(np.float32), mask=np.isnan(cosine))
    info = ShardInfo(
        key=key,
        dims={view: values.shape[1] for view, (values, _) in rows.vectors.items()},
        present={view: int(present.sum()) for view, (_, present) in rows.vectors.items()},
        similarity=list(rows.similarity),
        failures=rows.failures,
        counts=rows.counts,
    )
    write_vector_file(path, pa.table(columns), vectors, {_ACCOUNT: json.dumps(dataclasses.asdict(info))})
    return info


def read_shard_info(path: Path) -> ShardInfo | None:
    """The footer's account of the shard, or None when the file is absent, damaged or not ours."""
    try:
        account = json.loads((read_footer(path).parquet.metadata or {})[_ACCOUNT.encode()])
        account["failures"] = [Failure(**failure) for failure in account["failures"]]
        return ShardInfo(**account)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def shard_entry(path: Path, rows: int, key: str) -> dict[str, Any]:
    """What the manifest says of a shard file."""
    return {
        "file": path.name,
        "rows": rows,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "footer": read_footer(path).digest,
        "key": key,
    }


def _as_stored(view: str, values: np.ndarray, present: np.ndarray, item_ids: pl.Series) -> Vectors:
    """The vectors as float16, checked to be finite where present."""
    if values.ndim != 2 or not len(values) == len(present) == len(item_ids):
        raise ValueError(f"{view}: vectors {values.shape}, mask {present.shape} for {len(item_ids)} items")
    halves = _halves(values)
    exponents = halves.view(np.uint16) & _INFINITE
    bad = np.flatnonzero(present & (exponents == _INFINITE).any(axis=1))
    if len(bad):
        raise InputError(
            f"{view}: {len(bad)} vectors hold NaN or values past float16's 65504 "
            f"(first: item {item_ids[int(bad[0])]!r}); scale or repair these features"
        )
    return halves, present


def _halves(values: np.ndarray) -> np.ndarray:
    """C-contiguous float16, infinite where float16 ends."""
    torch = sys.modules.get("torch")  # where an encoder has loaded it: five times the speed of NumPy
    if torch is None or values.dtype != np.float32:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, dtype=np.float16)
    halves = np.empty(values.shape, np.float16)
    targets = torch.from_numpy(halves).view(-1).split(_SERIAL)
    sources = torch.from_numpy(np.require(values, requirements=["C", "W"])).view(-1).split(_SERIAL)
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
    return halves
