"""What the feature store costs beside raw `.npy` files: seconds, GB/s and peak memory of every step.

python bench/store.py FOLDER                   a million items, 6 views of 512 dimensions: 6 GB, as much again
                                               for the .npy files, and for a resumed store or an update
python bench/store.py FOLDER --items 100000    a tenth of it

Every step runs in a process of its own on what the steps before it left in FOLDER, so that its peak memory is
its own. Vectors go in as float32, as an encoder gives them, and as float16 into the `.npy` files. All writes
are synced. `--cold` drops the files from the system's cache before every step that reads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch  # noqa: F401 - as in an extraction, where it turns float32 into float16

from mmrec.features.store import FeatureStore, FeatureStoreWriter, ShardRows
from mmrec.features.vector_file import read_footer, read_span, vector_type, vectors_of, write_vector_file
from mmrec.pipeline.process import settle_process

_POOL = 20_011  # distinct vectors; an item's row among them follows from its id, its version and the view
_VIEW = "view2"  # the one that is read


def main() -> None:
    settle_process()  # as the command line does
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--shard-rows", type=int, default=2048)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the stores in FOLDER")
    parser.add_argument("--step", choices=STEPS, help="one step in this process; JSON out")
    arguments = parser.parse_args()
    if arguments.step:
        facts = STEPS[arguments.step](Bench(arguments))
        facts["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(facts))
    else:
        run_all(arguments)


def run_all(arguments: argparse.Namespace) -> None:
    if arguments.folder.exists():
        sys.exit(f"{arguments.folder}: is there already; name a folder that this may make and remove")
    arguments.folder.mkdir(parents=True)
    print(f"{arguments.items:,} items, {arguments.views} views of {arguments.dim}, shards of ", end="")
    print(f"{arguments.shard_rows:,}; load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n")
    print("| step | seconds | CPU seconds | GB | GB/s | peak memory, MB | of the seconds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |", flush=True)
    for step in STEPS:
        command = [sys.executable, __file__, *sys.argv[1:], "--step", step]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        facts = json.loads(ended.stdout)
        seconds, size = facts.pop("seconds"), facts.pop("bytes", 0) / 1e9
        rate = f"{size:.2f} | {size / seconds:.2f}" if size else " | "
        peak = facts.pop("peak_mb")
        cpu = facts.pop("cpu_seconds")
        rest = ", ".join(f"{name} {value:,.2g}" for name, value in facts.items())
        print(f"| {step} | {seconds:.3g} | {cpu:.3g} | {rate} | {peak:,.0f} | {rest} |", flush=True)
    compare_layouts(Bench(arguments))
    if not arguments.keep:
        shutil.rmtree(arguments.folder)


def compare_layouts(bench: Bench) -> None:
    """Ways of keeping one shard of float16 vectors, written without a sync and read view by view."""
    n, halves = bench.shard_rows, bench.pool[: bench.shard_rows].astype(np.float16)
    views = {
        view: (np.roll(halves, number, axis=0), np.ones(n, bool)) for number, view in enumerate(bench.views)
    }
    plain = {"row_group_size": n, "compression": "none", "use_dictionary": False, "write_page_checksum": True}
    path = bench.arrays / "shard"

    def write_ours() -> None:
        table = pa.table({view: pa.nulls(n, vector_type(bench.dim)) for view in views})
        write_vector_file(path, table, views, {})

    def read_ours(view: str) -> np.ndarray:
        return vectors_of(read_span(path, read_footer(path).spans[view]), bench.dim)[0]

    def write_lists() -> None:
        columns = {
            view: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), bench.dim)
            for view, (values, _) in views.items()
        }
        pq.write_table(pa.table(columns), path, **plain)

    def write_binary() -> None:
        kind = pa.binary(2 * bench.dim)
        columns = {
            view: pa.Array.from_buffers(kind, n, [None, pa.py_buffer(values)])
            for view, (values, _) in views.items()
        }
        pq.write_table(pa.table(columns), path, **plain)

    def read_by_arrow(view: str) -> np.ndarray:
        column = pq.read_table(path, columns=[view], page_checksum_verification=True)[view].combine_chunks()
        if pa.types.is_fixed_size_binary(column.type):
            return np.frombuffer(column.buffers()[1], np.float16, n * bench.dim).reshape(n, -1)
        return column.flatten().to_numpy(zero_copy_only=False).reshape(n, -1)

    def write_npy() -> None:
        for view, (values, _) in views.items():
            np.save(path.with_name(f"{view}.shard.npy"), values)

    layouts: dict[str, tuple[Callable[[], None], Callable[[str], np.ndarray]]] = {
        "lists, pages as raw bytes (the store)": (write_ours, read_ours),
        "lists, by Arrow": (write_lists, read_by_arrow),
        "fixed_size_binary, by Arrow": (write_binary, read_by_arrow),
        ".npy": (write_npy, lambda view: np.load(path.with_name(f"{view}.shard.npy"))),
    }
    size = 2 * n * bench.dim * len(views) / 1e9
    print("\n| one shard as | write, GB/s | read, GB/s |\n| --- | ---: | ---: |")
    for name, (write_shard, read_view) in layouts.items():
        writes, reads = [], []
        for _ in range(20):
            started = time.perf_counter()
            write_shard()
            written = time.perf_counter()
            found = [read_view(view) for view in views]
            reads.append(time.perf_counter() - written)
            writes.append(written - started)
            assert all((values == views[view][0]).all() for view, values in zip(views, found, strict=True))
        print(f"| {name} | {size / np.median(writes):.2f} | {size / np.median(reads):.2f} |", flush=True)


class Bench:
    """The made-up items, what they are kept in, and seconds by name."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.n, self.dim, self.shard_rows = arguments.items, arguments.dim, arguments.shard_rows
        self.views = [f"view{view}" for view in range(arguments.views)]
        self.store, self.resumed = arguments.folder / "store", arguments.folder / "resumed"
        self.arrays, self.cold = arguments.folder / "npy", arguments.cold
        pool = np.random.default_rng(0).standard_normal((_POOL, self.dim), np.float32)
        self.pool = pool / np.linalg.norm(pool, axis=1, keepdims=True)
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_seconds = 0.0

    @property
    def view_bytes(self) -> int:
        return 2 * self.n * self.dim

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu

    def vectors(self, ids: np.ndarray, versions: np.ndarray, view: int) -> np.ndarray:
        return self.pool[(ids + 13 * versions + 7919 * view) % _POOL]

    def evict(self, folder: Path) -> None:
        """Drop the folder's files from the system's cache."""
        for path in folder.rglob("*") if self.cold else ():
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def facts(self, size: int = 0) -> dict[str, float]:
        total = sum(self.seconds.values())
        return {"seconds": total, "cpu_seconds": self.cpu_seconds, "bytes": size, **self.seconds}

    def extract(self, folder: Path, ids: np.ndarray, versions: np.ndarray, stop: int | None = None) -> int:
        """What an extraction does with the store, up to shard `stop`; returns the bytes written."""
        with self.timed("open"):
            writer = FeatureStoreWriter(folder, {"encoder": {"name": "none"}, "views": self.views})
        hashes = [f"{version:08x}{item:024x}" for item, version in zip(ids, versions, strict=True)]
        written = 0
        for index, start in enumerate(range(0, len(ids), self.shard_rows)):
            if index == stop:
                return written
            rows = slice(start, start + self.shard_rows)
            item_ids = pl.Series("item_id", ids[rows])
            with self.timed("find finished shards"):
                finished = writer.finished(index, item_ids, hashes[rows]) is not None
            if finished:
                continue
            columns = {
                view: (self.vectors(ids[rows], versions[rows], number), np.ones(len(item_ids), bool))
                for number, view in enumerate(self.views)
            }
            with self.timed("take rows over"):
                existing = writer.existing_rows(item_ids, hashes[rows])
                for view, (values, present) in columns.items():
                    existing.copy_into(view, values, present)
            with self.timed("write shards"):
                writer.write_shard(index, ShardRows(item_ids, hashes[rows], columns))
            written += len(item_ids)
        with self.timed("commit"):
            writer.commit({})
        return 2 * written * self.dim * len(self.views)

    def check(self, values: np.ndarray, ids: np.ndarray, versions: np.ndarray | int = 0) -> None:
        """A thousand of the rows read are what was written."""
        chosen = np.random.default_rng(1).choice(len(ids), min(1000, len(ids)), replace=False)
        expected = self.vectors(ids[chosen], np.broadcast_to(versions, ids.shape)[chosen], 2)
        if not (values[chosen] == expected.astype(np.float16)).all():
            raise SystemExit("the vectors read are not those written")


def write(bench: Bench) -> dict[str, float]:
    return bench.facts(bench.extract(bench.store, *all_items(bench)))


def write_npy(bench: Bench) -> dict[str, float]:
    bench.arrays.mkdir()
    ids, versions = all_items(bench)
    files = [(bench.arrays / f"{view}.npy").open("wb") for view in bench.views]
    for file in files:
        header = {"descr": "<f2", "fortran_order": False, "shape": (bench.n, bench.dim)}
        np.lib.format.write_array_header_1_0(file, header)
    for start in range(0, bench.n, bench.shard_rows):
        rows = slice(start, start + bench.shard_rows)
        for view, file in enumerate(files):
            halves = bench.vectors(ids[rows], versions[rows], view).astype(np.float16)
            with bench.timed("write"):
                file.write(halves.data)
    for file in files:
        with bench.timed("sync"):
            file.flush()
            os.fsync(file.fileno())
        file.close()
    return bench.facts(len(bench.views) * bench.view_bytes)


def resume(bench: Bench) -> dict[str, float]:
    """Half of the shards are there, as after a kill."""
    bench.resumed.mkdir()
    parts = sorted(bench.store.glob("part-*.parquet"))
    for part in parts[: len(parts) // 2]:
        shutil.copy(part, bench.resumed)
    bench.evict(bench.resumed)
    size = bench.extract(bench.resumed, *all_items(bench))
    shutil.rmtree(bench.resumed)
    return bench.facts(size)


def up_to_date(bench: Bench) -> dict[str, float]:
    bench.evict(bench.store)
    bench.extract(bench.store, *all_items(bench))
    return bench.facts(len(bench.views) * bench.view_bytes)


def open_store(bench: Bench) -> dict[str, float]:
    bench.evict(bench.store)
    with bench.timed("open"):
        store = FeatureStore(bench.store)
    with bench.timed("item ids"):
        ids = store.item_ids
    assert len(ids) == bench.n
    return bench.facts()


def first_read(bench: Bench) -> dict[str, float]:
    bench.evict(bench.store)
    store = FeatureStore(bench.store)
    with bench.timed("read"):
        values, _ = store.read(_VIEW)
    bench.check(values, np.arange(bench.n))
    return bench.facts(bench.view_bytes)


def later_read(bench: Bench) -> dict[str, float]:
    bench.evict(bench.store)
    store = FeatureStore(bench.store)
    with bench.timed("open the view"):
        values, _ = store.read(_VIEW)
    with bench.timed("load it into memory"):
        loaded = np.array(values)
    bench.check(loaded, np.arange(bench.n))
    return bench.facts(bench.view_bytes)


def load_npy(bench: Bench) -> dict[str, float]:
    bench.evict(bench.arrays)
    with bench.timed("load"):
        loaded = np.load(bench.arrays / f"{_VIEW}.npy")
    bench.check(loaded, np.arange(bench.n))
    return bench.facts(bench.view_bytes)


def shuffled(bench: Bench) -> dict[str, float]:
    return by_ids(bench, np.random.default_rng(2).permutation(bench.n))


def shuffled_npy(bench: Bench) -> dict[str, float]:
    return by_rows(bench, np.random.default_rng(2).permutation(bench.n))


def few(bench: Bench) -> dict[str, float]:
    return by_ids(bench, np.random.default_rng(3).choice(bench.n, bench.n // 100, replace=False))


def few_npy(bench: Bench) -> dict[str, float]:
    return by_rows(bench, np.random.default_rng(3).choice(bench.n, bench.n // 100, replace=False))


def by_ids(bench: Bench, chosen: np.ndarray) -> dict[str, float]:
    bench.evict(bench.store)
    with bench.timed("open and find the rows"):
        store = FeatureStore(bench.store)
        ids = pl.Series(chosen)
        store.rows(ids)
    with bench.timed("read"):
        values, _ = store.read(_VIEW, ids)
    bench.check(values, chosen)
    return bench.facts(2 * len(chosen) * bench.dim)


def by_rows(bench: Bench, chosen: np.ndarray) -> dict[str, float]:
    bench.evict(bench.arrays)
    with bench.timed("read"):
        values = np.load(bench.arrays / f"{_VIEW}.npy", mmap_mode="r")[chosen]
    bench.check(values, chosen)
    return bench.facts(2 * len(chosen) * bench.dim)


def update(bench: Bench) -> dict[str, float]:
    """1 % of the items changed and 1 % new at the end: all over the catalogue, so every shard is written."""
    bench.evict(bench.store)
    ids, versions = changed_items(bench)
    size = bench.extract(bench.store, ids, versions)
    store = FeatureStore(bench.store)
    bench.check(store.take(_VIEW, np.arange(len(ids)))[0], ids, versions)
    return bench.facts(size)


def small_update(bench: Bench) -> dict[str, float]:
    """One more item of the catalogue has changed: one shard is written."""
    ids, versions = changed_items(bench)
    versions[0] = 2
    return bench.facts(bench.extract(bench.store, ids, versions))


def insert_in_front(bench: Bench) -> dict[str, float]:
    """One item before all others: every shard is written."""
    ids, versions = changed_items(bench)
    versions[0] = 2
    ids, versions = np.append(len(ids), ids), np.append(0, versions)
    return bench.facts(bench.extract(bench.store, ids, versions))


def all_items(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(bench.n), np.zeros(bench.n, np.int64)


def changed_items(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    ids = np.arange(bench.n + bench.n // 100)
    versions = np.zeros(len(ids), np.int64)
    versions[np.random.default_rng(4).choice(bench.n, bench.n // 100, replace=False)] = 1
    return ids, versions


STEPS: dict[str, Callable[[Bench], dict[str, float]]] = {
    "write": write,
    "write .npy": write_npy,
    "resume at half": resume,
    "run again, nothing new": up_to_date,
    "open": open_store,
    "first read of a view": first_read,
    "later read": later_read,
    "np.load": load_npy,
    "all ids, shuffled": shuffled,
    "all rows of .npy, shuffled": shuffled_npy,
    "1 % of the ids": few,
    "1 % of the rows of .npy": few_npy,
    "update: 1 % changed, 1 % new": update,
    "update: one item changed": small_update,
    "update: one item in front": insert_in_front,
}


if __name__ == "__main__":
    main()
