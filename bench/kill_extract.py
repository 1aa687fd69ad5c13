"""An extraction that is killed again and again, and what comes of it beside one that is left alone.

    python bench/kill_extract.py ../shared/data/movielens-posters            # 20 kills, the tiny CLIP

Every process is killed by SIGKILL at a random instant (`--seed`), and the next one goes on. The end is equal
stores, file by file, and no finished shard written twice; exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mmrec.features.files import file_sha256

MARK = "MMREC_KILLED"  # in the environment of a process and all that it starts
CONFIG = """
[catalog]
items = {items}
image = "image"
[extract]
encoder = "tiny"
image_views = ["full", "quadrants"]
text_views = {{ title = "The film is called {{title}}." }}
shard_rows = {rows}
max_failures = 1.0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("catalogue", type=Path, help="folder of items.csv, with columns image and title")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-rows", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        figures = measure(options, Path(work))
    print(json.dumps(figures, indent=2))
    lost = figures["finished_shards_written_again"] or figures["kills_survived_by_a_process"]
    sys.exit(0 if figures["equal"] and not lost else 1)


def measure(options: argparse.Namespace, work: Path) -> dict[str, object]:
    items = json.dumps(str(options.catalogue.absolute() / "items.csv"))
    (work / "run.toml").write_text(CONFIG.format(items=items, rows=options.shard_rows))
    whole, killed = work / "whole" / "features", work / "killed" / "features"
    started = time.perf_counter()
    process = extraction(work, "whole")
    wait_for(process, whole, 1)
    start = time.perf_counter() - started
    process.wait()
    seconds = time.perf_counter() - started
    n_shards = len(shards(whole))
    rng = np.random.default_rng(options.seed)
    kills, in_flight, again, survivors = 0, 0, 0, 0
    while True:
        before = shards(killed)
        process = extraction(work, "killed")
        if kills == options.kills:
            code = process.wait()
            again += rewritten(before, shards(killed))
            break
        if rng.random() < 0.25:  # while it looks for what is there
            time.sleep(rng.uniform(0, start))
        else:
            left = (n_shards - len(before)) / (options.kills - kills)
            most = max(round(1.6 * left), 2)  # so that the kills reach the last shards
            wait_for(process, killed, len(before) + int(rng.integers(1, most)))
            time.sleep(rng.uniform(0, 2 * (seconds - start) / n_shards))
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        kills += code == -signal.SIGKILL
        survivors += has_survivors(f"{MARK}={work}/killed")
        in_flight += len(list(killed.glob(".part-*.tmp")))
        again += rewritten(before, shards(killed))
        say(f"kill {kills} of {options.kills}: {len(before)} -> {len(shards(killed))} of {n_shards} shards")
    return {
        "shards": n_shards,
        "killed": kills,
        "killed_while_a_shard_was_written": in_flight,
        "kills_survived_by_a_process": survivors,
        "finished_shards_written_again": again,
        "last_exit_code": code,
        "seconds_uninterrupted": round(seconds, 1),
        "seconds_killed": round(time.perf_counter() - started - seconds, 1),
        "files_compared": len(checksums(whole)),
        "equal": checksums(whole) == checksums(killed),
    }


def extraction(work: Path, output: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mmrec.cli", "--quiet", "extract", "-c", str(work / "run.toml")]
    return subprocess.Popen(
        [*command, "-o", str(work / output)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, MARK: str(work / output)},
    )


def shards(features: Path) -> dict[str, int]:
    """When each finished shard was written."""
    return {path.name: path.stat().st_mtime_ns for path in features.glob("part-*.parquet")}


def rewritten(before: dict[str, int], after: dict[str, int]) -> int:
    """Shards that were finished before and are gone, or written again."""
    return sum(after.get(file) != written for file, written in before.items())


def wait_for(process: subprocess.Popen[bytes], features: Path, count: int) -> None:
    """Until there are so many shards, or the process has ended."""
    while process.poll() is None and len(list(features.glob("part-*.parquet"))) < count:
        time.sleep(0.005)


def has_survivors(mark: str) -> bool:
    """Whether any process that the killed one had started is there five seconds later."""
    until = time.monotonic() + 5
    while marked(mark):
        if time.monotonic() > until:
            return True
        time.sleep(0.01)
    return False


def marked(mark: str) -> bool:
    """Whether a process lives that has inherited the mark."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environment.read_bytes():
                return True
        except OSError:  # it has just ended, or is somebody else's
            continue
    return False


def checksums(features: Path) -> dict[str, str]:
    return {
        path.name: file_sha256(path) for path in features.iterdir() if path.suffix in (".parquet", ".json")
    }


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
