"""Writing the feature store: shard by shard, resumable at any instant, old rows taken over."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .errors import InputError
from .files import atomic_path, digest_json, file_sha256, remove_stale_temporaries, write_json
from .manifest import MANIFEST, SCHEMA, read_manifest, sealed
from .shard_reader import intact_files, is_sound, read_columns
from .shards import (
    Failure,
    ShardInfo,
    ShardRows,
    read_shard_info,
    shard_entry,
    shard_key,
    write_shard_file,
)
from .store_reader import CACHE, FeatureStore, ledger_is_intact
from .tables import write_parquet
from .vector_cache import remove_outdated
from .versions import library_versions

log = logging.getLogger(__name__)

_ABANDONED = 3600.0  # seconds after which what is unfinished among several writers has none any more
_SHARD_FILE = re.compile(r"part-(\d{5,})(-[0-9a-f]{8})?\.parquet")
_LIBRARIES = (
    *("mmrec", "numpy", "open_clip_torch", "pillow", "polars", "pyarrow", "sentence-transformers"),
    *("sentencepiece", "timm", "torch", "transformers"),
)


class ExistingRows:
    """The rows asked for that the live store already has, by item id and content hash."""

    def __init__(self, store: FeatureStore | None, rows: dict[int, int], failures: list[Failure]) -> None:
        self._store = store
        self.rows = rows  # row asked for -> row of the store
        self.failures = failures  # of those rows

    def copy_into(self, view: str, values: np.ndarray, present: np.ndarray) -> None:
        """Fill the rows found in `values` (n, dim) and `present` (n,); the others stay as they are."""
        if self._store is None or not self.rows:
            return
        targets = np.fromiter(self.rows.keys(), np.int64)
        sources = np.fromiter(self.rows.values(), np.int64)
        values[targets], present[targets] = self._store.take(view, sources)


class FeatureStoreWriter:
    """Writes a store shard by shard; the live store stays whole and readable until `commit`.

    `space` is everything that decides what vectors mean and is not a row (encoder, views, normalisation);
    rows are taken over only from a store of the same space, and not those of items that failed for a reason
    in `retried`. The caller holds a lock: one writer at a time, or, each with `alone` off, several of which
    none commits and each has shards of its own. One thread may ask what is known while another writes.
    """

    def __init__(
        self,
        folder: str | Path,
        space: dict[str, Any],
        retried: Collection[str] = (),
        alone: bool = True,
    ) -> None:
        self.folder, self.space, self._retried = Path(folder), space, frozenset(retried)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(self.folder, min_age=0.0 if alone else _ABANDONED)
        self._space_digest = digest_json(space)
        self._live = read_manifest(self.folder) if (self.folder / MANIFEST).exists() else None
        self._live_shards = {shard["file"]: shard for shard in self._live["shards"]} if self._live else {}
        self._done: dict[int, tuple[dict[str, Any], ShardInfo]] = {}
        self.look_around()

    def look_around(self) -> None:
        """Learn of shards that other writers have finished."""
        files = {path.name for path in self.folder.glob("part-*.parquet")}
        self._waiting = _by_index(files - self._live_shards.keys())  # finished, but not in the live store

    @property
    def changed(self) -> bool:
        """Whether a commit would change the live store, given the shards finished or written so far."""
        if self._live is None or digest_json(self._live["space"]) != self._space_digest:
            return True
        if not ledger_is_intact(self.folder, self._live):
            return True
        return [shard for shard, _ in self._ordered()] != self._live["shards"]

    def may_know(self, index: int, item_ids: pl.Series) -> bool:
        """Whether `finished` or `existing_rows` might find something of shard `index`."""
        store, known, _ = self._reusable
        if index in self._waiting or (store is not None and index in self._live_by_index):
            return True
        return (
            store is not None
            and item_ids.dtype == known["item_id"].dtype
            and item_ids.is_in(known["item_id"].implode()).any()
        )

    def finished(
        self, index: int, item_ids: pl.Series, content_hashes: Sequence[str]
    ) -> list[Failure] | None:
        """The failures of shard `index` if it lies on disk with exactly these rows, else None."""
        key = shard_key(self._space_digest, item_ids, content_hashes)
        # First what waits for a commit: beside a file of the live store with the same key, a retry made it.
        for file in sorted(_shard_files(index, key), key=lambda file: file in self._live_shards):
            info = read_shard_info(self.folder / file)
            if info is None or info.key != key or not self._is_whole(file):
                continue
            if file in self._live_shards and self._retries(info.failures):
                continue
            self._record(index, file, item_ids, info)
            return info.failures
        return None

    def adopt(self, index: int, item_ids: pl.Series) -> list[Failure]:
        """Take shard `index` as some writer left it, and return its failures; the content of its items is not
        looked at. InputError says why no file there will do.
        """
        problems = []
        # Several, where a writer was killed before it removed the older: one that waits, or, in a commit, the
        # one that the live store had before.
        files = self._waiting.get(index, set()) | self._live_by_index.get(index, set())
        for file in sorted(files, key=self._age):
            try:
                info = self._checked_account(file, item_ids)
            except InputError as error:
                problems.append(str(error))
            else:
                self._record(index, file, item_ids, info)
                return info.failures
        raise InputError(problems[0] if problems else "not made yet")

    def existing_rows(self, item_ids: pl.Series, content_hashes: Sequence[str]) -> ExistingRows:
        """What the live store of the same space holds for these items with this content."""
        store, known, ledger = self._reusable
        if store is None or item_ids.dtype != known["item_id"].dtype:
            return ExistingRows(None, {}, [])
        wanted = pl.DataFrame({"item_id": item_ids, "content_hash": list(content_hashes)}).with_row_index(
            "asked"
        )
        found = wanted.join(known, on="item_id", maintain_order="left")
        found = found.filter(pl.col("content_hash") == pl.col("content_hash_right"))
        if self._retried:
            again = [item for item, failures in ledger.items() if self._retries(failures)]
            found = found.filter(~pl.col("item_id").is_in(pl.Series(again, dtype=item_ids.dtype).implode()))
        failures = [failure for item in found["item_id"] for failure in ledger.get(item, [])]
        return ExistingRows(store, dict(zip(found["asked"], found["row"], strict=True)), failures)

    def write_shard(self, index: int, rows: ShardRows) -> None:
        """Write shard `index` durably, under a name that leaves the live store's files alone."""
        key = shard_key(self._space_digest, rows.item_ids, rows.content_hashes)
        file = next(name for name in _shard_files(index, key) if name not in self._live_shards)
        with atomic_path(self.folder / file) as unfinished:
            info = write_shard_file(unfinished, rows, key)
        self._record(index, file, rows.item_ids, info)

    def commit(self, stats: dict[str, Any]) -> dict[str, Any]:
        """Make shards 0..n-1 the live store: ledger first, manifest last, then remove what it left behind.

        Returns the manifest; a store that would not change, nor its `stats`, keeps the one it has.
        """
        shards = self._ordered()
        if sorted(self._done) != list(range(len(shards))) or not shards:
            raise ValueError(f"shards {sorted(self._done)} are not 0 to n - 1")
        same = self._live is not None and not self.changed and self._live["stats"] == stats
        manifest = self._live if self._live and same else self._write_manifest(shards, stats)
        self._remove_unreferenced(manifest)
        return manifest

    def _write_manifest(
        self, shards: list[tuple[dict[str, Any], ShardInfo]], stats: dict[str, Any]
    ) -> dict[str, Any]:
        infos = [info for _, info in shards]
        if any(info.dims != infos[0].dims or info.similarity != infos[0].similarity for info in infos):
            raise ValueError("shards of one space differ in their views")
        failures = [failure for info in infos for failure in info.failures]
        ledger = self._write_ledger(failures)
        content = {
            "schema": SCHEMA,
            "rows": sum(shard["rows"] for shard, _ in shards),
            "space": self.space,
            "views": {
                view: {"dim": dim, "present": sum(info.present[view] for info in infos)}
                for view, dim in infos[0].dims.items()
            },
            "similarity": infos[0].similarity,
            "shards": [shard for shard, _ in shards],
            "failures": ledger,
            "failures_sha256": file_sha256(self.folder / ledger),
            "failed_items": len({failure.item_id for failure in failures}),
            "failed_reasons": dict(Counter(failure.reason for failure in failures).most_common()),
            "counts": _summed(info.counts for info in infos),
            "stats": stats,
            "libraries": library_versions(_LIBRARIES),
        }
        manifest = sealed(content)
        write_json(self.folder / MANIFEST, manifest)
        return manifest

    def _ordered(self) -> list[tuple[dict[str, Any], ShardInfo]]:
        return [self._done[index] for index in sorted(self._done)]

    def _record(self, index: int, file: str, item_ids: pl.Series, info: ShardInfo) -> None:
        path = self.folder / file
        self._id_dtype = item_ids.dtype
        entry = self._live_shards.get(file) or shard_entry(path, len(item_ids), info.key)
        self._done[index] = entry, info
        superseded = self._waiting.get(index, set()) - {file}
        for older in superseded:  # else `adopt` could not tell which counts
            (self.folder / older).unlink(missing_ok=True)
        self._waiting[index] = {file} - self._live_shards.keys()

    def _checked_account(self, file: str, item_ids: pl.Series) -> ShardInfo:
        """What a whole file of this space and these items says of itself; InputError for any other file."""
        path = self.folder / file
        info = read_shard_info(path)
        if info is None or not self._is_whole(file):
            raise InputError("damaged")
        table = read_columns(path, ["item_id", "content_hash"])
        stored, hashes = (pl.Series(table.column(n)) for n in (0, 1))
        if stored.dtype != item_ids.dtype or not stored.equals(item_ids):
            raise InputError("of other items")
        if info.key != shard_key(self._space_digest, item_ids, hashes.to_list()):
            raise InputError("of other settings")
        return info

    def _age(self, file: str) -> int:
        """The newest first; what is gone last."""
        path = self.folder / file
        return -path.stat().st_mtime_ns if path.is_file() else 0

    def _is_whole(self, file: str) -> bool:
        return file in self._intact if file in self._live_shards else is_sound(self.folder / file)

    def _retries(self, failures: Iterable[Failure]) -> bool:
        return any(failure.reason in self._retried for failure in failures)

    @cached_property
    def _live_by_index(self) -> dict[int, set[str]]:
        return _by_index(self._live_shards)

    @cached_property
    def _intact(self) -> set[str]:
        """The live store's files that are there with their checksums; the others are computed again."""
        intact = intact_files(self.folder, self._live_shards.values())
        for file in self._live_shards.keys() - intact:
            log.warning("%s is missing or damaged: its rows are computed again", self.folder / file)
        return intact

    @cached_property
    def _reusable(self) -> tuple[FeatureStore | None, pl.DataFrame, dict[int | str, list[Failure]]]:
        """The sound part of the live store when it has this space, its items' rows and its failures."""
        if self._live is None or digest_json(self._live["space"]) != self._space_digest or not self._intact:
            return None, pl.DataFrame(), {}
        shards = [shard for shard in self._live["shards"] if shard["file"] in self._intact]
        rows = sum(shard["rows"] for shard in shards)
        store = FeatureStore(self.folder, {**self._live, "shards": shards, "rows": rows})
        known = pl.DataFrame({"item_id": store.item_ids, "content_hash": store.content_hashes})
        ledger: dict[int | str, list[Failure]] = {}
        for shard in shards:
            info = read_shard_info(self.folder / shard["file"])
            for failure in info.failures if info else ():
                ledger.setdefault(failure.item_id, []).append(failure)
        return store, known.with_row_index("row"), ledger

    def _write_ledger(self, failures: list[Failure]) -> str:
        """Write the failures beside the live ledger, not over it; return the file's name."""
        live = self._live["failures"] if self._live else None
        names = ("failures.parquet", f"failures-{digest_json(self._live)[:8]}.parquet")
        file = next(name for name in names if name != live)
        schema = {"item_id": self._id_dtype, "view": pl.String, "reason": pl.String, "message": pl.String}
        lines = [dataclasses.astuple(failure) for failure in failures]
        write_parquet(self.folder / file, pl.DataFrame(lines, schema, orient="row"))
        return file

    def _remove_unreferenced(self, manifest: dict[str, Any]) -> None:
        kept = {manifest["failures"], *(shard["file"] for shard in manifest["shards"])}
        for pattern in ("part-*.parquet", "failures*.parquet"):
            for path in self.folder.glob(pattern):
                if path.name not in kept:
                    path.unlink()
        remove_outdated(self.folder / CACHE, digest_json(manifest)[:16])


def _shard_files(index: int, key: str) -> tuple[str, str]:
    """The two names that the shard may have: the plain one, and one for when the live store holds that."""
    return f"part-{index:05d}.parquet", f"part-{index:05d}-{key[:8]}.parquet"


def _by_index(files: Iterable[str]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for file in files:
        named = _SHARD_FILE.fullmatch(file)
        if named:
            found.setdefault(int(named[1]), set()).add(file)
    return found


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for part in counts:
        totals.update(part)  # unlike `+`, this keeps zeros: that nothing was cut is worth saying
    return dict(totals)
