"""Lists for a million users among 200,000 items: users a second and peak memory of `mmrec recommend`.

python bench/recommend.py FOLDER                  1,000,000 x 200,000 x 64, k = 20; 3 GB of disk
python bench/recommend.py FOLDER --users 100000   a tenth of the users

First the search alone, beside a product and `topk` of torch, the same with numpy, and a flat index of FAISS,
in turns, on the same vectors and threads: other jobs on the machine slow all of them down. Then the command,
on a bundle of generated vectors in which every user had 20 items. Every step has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import torch

from mmrec.features.files import write_json
from mmrec.features.manifest import sealed
from mmrec.pipeline.process import settle_process
from mmrec.recsys.models.base import Vectors
from mmrec.recsys.ranking import ExactRanker
from mmrec.stages.bundle import open_bundle, write_bundle
from mmrec.stages.published import ACCOUNT, SCHEMA, SEEN

HISTORY = 20  # items that every user had
BLOCK = 1024  # users that the others score at a time
SAMPLE = 2048  # users of a round


def main() -> None:
    settle_process()  # as the command line does; for the processes that this one starts
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--memory-mb", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", choices=STEPS, help="one step in this process")
    arguments = parser.parse_args()
    if arguments.step:
        STEPS[arguments.step](arguments)
        return
    if arguments.folder.exists():
        sys.exit(f"{arguments.folder}: is there already; name a folder that this may make and remove")
    print(
        f"{arguments.users:,} users, {arguments.items:,} items, {arguments.dim} dimensions, "
        f"k = {arguments.k}; load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores",
        flush=True,
    )
    try:
        for step in STEPS:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--step", step], check=True)
        run_command(arguments)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)


def write_generated(arguments: argparse.Namespace) -> None:
    """A bundle of normal vectors, its seen items drawn evenly."""
    folder, n_users, n_items, dim = arguments.folder, arguments.users, arguments.items, arguments.dim
    generator = np.random.default_rng(0)
    vectors = Vectors(
        generator.standard_normal((n_users, dim), dtype=np.float32),
        generator.standard_normal((n_items, dim), dtype=np.float32),
    )
    ids = (pl.Series("user_id", np.arange(n_users)), pl.Series("item_id", np.arange(n_items)))
    folder.mkdir(parents=True)
    facts = {"model": "generated", "dim": dim, "views": []}
    write_bundle(folder / "model", facts, {}, {"none": torch.zeros(1)}, ids, vectors)
    seen = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(n_users), HISTORY),
            "item_id": generator.integers(0, n_items, n_users * HISTORY),
        }
    )
    pq.write_table(seen.to_arrow(), folder / SEEN)
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size} for path in files}
    write_json(folder / ACCOUNT, sealed({"schema": SCHEMA, "id": "generated", "files": sizes}))


def compare(arguments: argparse.Namespace) -> None:
    """The search alone, without seen items, against what people write or call."""
    bundle, k, rounds = open_bundle(arguments.folder / "model"), arguments.k, arguments.rounds
    items, samples = bundle.items, bundle.users(SAMPLE)
    transposed = torch.from_numpy(np.ascontiguousarray(items.T))
    flat = faiss.IndexFlatIP(items.shape[1])
    flat.add(items)  # pyright: ignore[reportCallIssue]
    ranker = ExactRanker(items)

    def by_torch(users: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(users).split(BLOCK)
        return torch.cat([(part @ transposed).topk(k, dim=1).indices for part in parts]).numpy()

    def by_product(users: np.ndarray) -> None:
        for part in torch.from_numpy(users).split(BLOCK):
            part @ transposed

    def by_numpy(users: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(users), BLOCK):
            scores = users[start : start + BLOCK] @ items.T
            best = np.argpartition(-scores, k, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
            found.append(np.take_along_axis(best, order, axis=1))
        return np.concatenate(found)

    ways: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
        "mmrec": lambda users: ranker.rank(users, k).items,
        "product in float32 alone": by_product,
        "product and topk, torch": by_torch,
        "product and argpartition, numpy": by_numpy,
        "IndexFlatIP, FAISS": lambda users: flat.search(users, k)[1],  # pyright: ignore[reportCallIssue]
    }
    seconds = {way: [] for way in ways}
    cpu = {way: [] for way in ways}
    for _ in range(rounds + 1):  # the first warms up
        users = np.asarray(next(samples))
        lists = {}
        for way, search in ways.items():
            started, worked = time.perf_counter(), time.process_time()
            lists[way] = search(users)
            seconds[way].append(time.perf_counter() - started)
            cpu[way].append(time.process_time() - worked)
        for way, found in lists.items():
            if found is not None:  # scores that differ by a rounding may change places
                assert (found == lists["mmrec"]).mean() > 0.9999, way
    print(f"\n| search for {SAMPLE:,} users, {rounds} rounds | users/s | CPU seconds | beside mmrec |")
    print("| --- | ---: | ---: | ---: |")
    own = np.median(cpu["mmrec"][1:])
    for way in ways:
        rate, worked = SAMPLE / np.median(seconds[way][1:]), np.median(cpu[way][1:])
        print(f"| {way} | {rate:,.0f} | {worked:.2f} | {worked / own:.1f} |", flush=True)


def run_command(arguments: argparse.Namespace) -> None:
    """`mmrec recommend` in a process of its own."""
    output = arguments.folder / "lists.parquet"
    command = [sys.executable, "-m", "mmrec.cli", "recommend", str(arguments.folder), "-o", str(output)]
    command += ["-k", str(arguments.k), "--memory-mb", str(arguments.memory_mb), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    peak, ended = 0.0, threading.Event()

    def watch() -> None:  # what wait4 says counts this process too, which was forked
        nonlocal peak
        while not ended.wait(0.2):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    peak = max(peak, float(line.split()[1]) / 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    facts = json.loads(process.stdout.read())["recommend"]
    ended.set()
    watcher.join()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0 and facts["lists"] == arguments.users
    rows = pq.ParquetFile(output).metadata
    print(f"\n{' '.join(command[2:])}")
    print(
        f"{facts['lists']:,} lists, {rows.num_rows:,} rows in {rows.num_row_groups} row groups, "
        f"{output.stat().st_size / 1e6:,.0f} MB; {facts['lists_per_second']:,.0f} users/s, "
        f"{facts['seconds']:.0f} s of {facts['total_seconds']:.0f}, "
        f"CPU {usage.ru_utime + usage.ru_stime:.0f} s; peak memory {peak:,.0f} MB; "
        f"load average {os.getloadavg()[0]:.1f}"
    )


STEPS = {"generate": write_generated, "compare": compare}

if __name__ == "__main__":
    main()
