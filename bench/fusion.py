"""Seconds and peak memory of joining the views of a large catalogue; JSON out.

python bench/fusion.py --items 1000000 --views 5 --dim 512

The views are float16 files of random unit vectors, read as memory maps as the feature store's are, with 5 %
of the rows missing. Every kind is measured in a process of its own: `peak_mb` is all of that process, torch
and mapped pages of the files included; `anonymous_mb` is without what the system can read again from files.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("similarity", "mean", "sum", "concat")
ROWS = 50_000  # written at once


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS[:3]), choices=KINDS)
    parser.add_argument("--folder", type=Path, help="where the views are written; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        for view in range(arguments.views + 1):  # the last one is the image
            write_view(folder, view, arguments.items, arguments.dim)
        results = {kind: measured(folder, arguments.views, kind) for kind in arguments.kinds}
    settings = {key: getattr(arguments, key) for key in ("items", "views", "dim")}
    print(json.dumps({"settings": settings, "kinds": results}, indent=2))


def write_view(folder: Path, view: int, items: int, dim: int) -> None:
    rng = np.random.default_rng(view)
    matrix = np.lib.format.open_memmap(folder / f"{view}.npy", "w+", np.float16, (items, dim))
    present = rng.random(items) >= 0.05
    np.save(folder / f"{view}.present.npy", present)
    for start in range(0, items, ROWS):
        rows = rng.standard_normal((min(ROWS, items - start), dim), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        rows[~present[start : start + ROWS]] = 0
        matrix[start : start + ROWS] = rows


def measured(folder: Path, views: int, kind: str) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(folder, views, kind, sender))
    process.start()
    found: dict[str, float] = receiver.recv()
    process.join()
    return found


def _measure(folder: Path, views: int, kind: str, sender: Any) -> None:
    import torch

    from mmrec.recsys.config import FusionConfig
    from mmrec.recsys.fusion import FrozenView, fuse

    torch.set_num_threads(1)
    frozen = [
        FrozenView(np.load(folder / f"{view}.npy", mmap_mode="r"), np.load(folder / f"{view}.present.npy"))
        for view in range(views + 1)
    ]
    largest = [0.0]
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(largest, done))
    watcher.start()
    started = time.perf_counter()
    image = frozen[-1] if kind == "similarity" else None
    fuse(
        {str(n): view for n, view in enumerate(frozen[:-1])},
        image,
        FusionConfig.model_validate({"kind": kind}),
    )
    elapsed = time.perf_counter() - started
    done.set()
    watcher.join()
    sender.send({"seconds": elapsed, "peak_mb": memory_mb("VmHWM"), "anonymous_mb": largest[0]})


def _watch(largest: list[float], done: threading.Event) -> None:
    """Keep the largest anonymous memory of this process, in MB (Linux)."""
    while not done.wait(0.02):
        largest[0] = max(largest[0], memory_mb("RssAnon"))


def memory_mb(entry: str) -> float:
    status = Path("/proc/self/status").read_text()  # not `getrusage`: it starts from the parent's peak
    line = next(line for line in status.splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 2**10


if __name__ == "__main__":
    main()
