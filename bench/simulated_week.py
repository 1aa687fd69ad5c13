"""Seven nights of `mmrec run` on a shop that changes, by real processes, beside a reader that never stops.

    python bench/simulated_week.py --output /tmp/week

Every night brings new items, users and interactions and takes items away. One night the feed is cut off, on
one its item ids are those of other items, on one the run is killed, and on one a second run starts beside it.
All the while a reader follows `current`, checks every file of the bundle against its hash and makes lists.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from mmrec.pipeline.outcome import table
from mmrec.pipeline.shop import generate_shop
from mmrec.stages.published import open_published, published_id

N_ITEMS, N_USERS, PER_USER = 320, 420, 18
FIRST_ITEMS, NEW_ITEMS, GONE_ITEMS = 240, 10, 4  # on sale at first; new, and gone, every night
FIRST_SHARE, NEW_SHARE = 0.7, 0.05  # of the log at first; new every night
NIGHTS = 7
CONFIG = """\
[catalog]
items = "feed/items.csv"
image_root = "universe"
image = "image"
[interactions]
path = "feed/interactions.csv"
[extract]
encoder = "tiny"
image_views = ["full"]
text_views = { title = "{title}", all = "{title}. {brand}. {category}" }
shard_rows = 64
max_failures = 0.05
[train]
model = "freedom"
epochs = 40
dim = 32
learning_rate = 0.01
[evaluate]
k = [10, 20]
bootstrap = 200
[publish]
keep = 3
keep_hours = 0
[run]
output = "run"
backoff = 1
"""


@dataclass(slots=True)
class Night:
    number: int
    happened: str
    codes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    made: str = ""
    why: str = ""  # the model was trained again
    reused: str = ""
    published: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/simulated-week"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", type=Path, help=argparse.SUPPRESS)  # what the reader is started with
    options = parser.parse_args()
    if options.reader is not None:
        read_on(options.reader)
        return
    week = Week(options.output, options.seed)
    reader = subprocess.Popen(
        [sys.executable, __file__, "--reader", str(week.published)], stdout=subprocess.PIPE, text=True
    )
    try:
        nights = week.run()
    finally:
        reader.send_signal(signal.SIGTERM)
        said, _ = reader.communicate()
    columns = ["night", "what happened", "exit", "seconds", "made", "model: changed", "reused", "published"]
    rows = [
        [
            *(str(night.number), night.happened, ", ".join(night.codes), f"{night.seconds:.1f}"),
            *(night.made or "-", night.why or "-", night.reused or "-", night.published),
        ]
        for night in nights
    ]
    print(table("a simulated week", columns, rows, words=True))
    print(f"reader: {said.strip()}")
    print(subprocess.run(week.command("status"), capture_output=True, text=True, check=True).stdout)


class Week:
    """A shop in `universe`, what it sells and logs tonight in `feed`, and the run folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder, self.feed = folder, folder / "feed"
        self.published = folder / "run" / "published"
        shop = generate_shop(folder / "universe", N_ITEMS, N_USERS, PER_USER, image_size=48, seed=seed)
        self.items, self.log = (
            pl.read_csv(path, infer_schema=False) for path in (shop.items, shop.interactions)
        )
        self.log = self.log.with_columns(pl.col("timestamp").cast(pl.Int64)).sort("timestamp")
        self.rng = random.Random(seed)
        (folder / "week.toml").write_text(CONFIG)
        self.feed.mkdir()

    def run(self) -> list[Night]:
        return [
            self.night(1, "first run", self.once),
            self.night(2, "new and gone items, new users", self.once),
            self.night(3, "the feed is cut off", self.once, self.cut_feed),
            self.night(4, "item ids of other items", self.once, self.mix_up),
            self.night(5, "kill -9, then again", self.killed),
            self.night(6, "two runs at once", self.twice),
            self.night(7, "new items; then nothing new", self.again),
        ]

    def night(
        self,
        number: int,
        happened: str,
        act: Callable[[], list[str]],
        spoil: Callable[[], None] = lambda: None,
    ) -> Night:
        self.write_feed(number)
        spoil()
        before = set(self.records())
        started = time.perf_counter()
        codes = act()
        seconds = time.perf_counter() - started
        new = [record for name, record in self.records().items() if name not in before]
        stages = [stage for record in new for stage in record["stages"]]
        made = [_described(stage) for stage in stages if stage["up_to_date"] is False]
        why = [reason for stage in stages if stage["name"] == "model" for reason in stage["changed"]]
        reused = [stage["name"] for stage in stages if stage["up_to_date"]]
        night = Night(number, happened, codes, seconds, *map(", ".join, (made, why, reused)))
        night.published = (published_id(self.published) or "-").partition("T")[2]  # the days are all one
        print(f"night {number}: {happened}: exit {', '.join(codes)}, {seconds:.1f} s", file=sys.stderr)
        for record in new:
            if record["error"]:
                print(f"  {record['error']['message']}", file=sys.stderr)
        return night

    def write_feed(self, night: int) -> None:
        """What the shop has on sale and has sold by this night."""
        last, first = FIRST_ITEMS + NEW_ITEMS * night, GONE_ITEMS * night
        on_sale = self.items[first:last]
        share = FIRST_SHARE + NEW_SHARE * (night - 1)
        sold = self.log.head(round(share * len(self.log))).join(on_sale, on="item_id", how="semi")
        newcomers = max(1, round(N_USERS * (1 - 0.02 * (NIGHTS - night))))
        sold = sold.filter(pl.col("user_id") < f"user-{newcomers:04d}")
        on_sale.write_csv(self.feed / "items.csv")
        sold.write_csv(self.feed / "interactions.csv")

    def cut_feed(self) -> None:
        path = self.feed / "items.csv"
        content = path.read_bytes()
        path.write_bytes(content[: int(0.6 * len(content))])

    def mix_up(self) -> None:
        """The log with the ids of other items, as after a join on the wrong column."""
        path = self.feed / "interactions.csv"
        log = pl.read_csv(path)
        ids = log["item_id"].unique().sort()
        others = ids.shuffle(seed=1)
        log.with_columns(pl.col("item_id").replace_strict(ids, others)).write_csv(path)

    def once(self) -> list[str]:
        return [str(self.start().wait())]

    def killed(self) -> list[str]:
        """Killed at some moment of the run, then run again."""
        usual = min(record["seconds"] for record in self.records().values() if record["exit_code"] == 0)
        begun = set(self.records())
        process = self.start()
        while not set(self.records()) - begun and process.poll() is None:
            time.sleep(0.05)
        time.sleep(self.rng.uniform(0.1, 0.7) * usual)
        process.kill()
        return [f"killed ({process.wait()})", *self.once()]

    def twice(self) -> list[str]:
        both = [self.start(), self.start()]
        return sorted(str(process.wait()) for process in both)

    def again(self) -> list[str]:
        return [*self.once(), *self.once()]

    def start(self) -> subprocess.Popen[bytes]:
        log = (self.folder / "week.log").open("ab")
        with log:
            return subprocess.Popen(self.command("run"), stdout=log, stderr=log)

    def command(self, verb: str) -> list[str]:
        return [sys.executable, "-m", "mmrec.cli", "-q", verb, "-c", str(self.folder / "week.toml")]

    def records(self) -> dict[str, dict]:
        found = sorted((self.folder / "run" / "runs").glob("*/run.json"))
        return {path.parent.name: json.loads(path.read_text()) for path in found}


def _described(stage: dict) -> str:
    """The stage; of features, how many items were encoded."""
    facts = stage["facts"]
    return f"features {facts['encoded']}/{facts['items']}" if stage["name"] == "features" else stage["name"]


def read_on(folder: Path) -> None:
    """Read what is published in `folder` until SIGTERM; print what was seen. Before the first publication
    there is nothing to read, which is no error."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    reads, errors, seen = 0, [], []
    try:
        while True:
            try:
                bundle = open_published(folder, verify=True)
                lists(bundle)
                reads += 1
                seen.append(bundle.id)
            except FileNotFoundError as error:
                if seen:
                    errors.append(repr(error))
            except (OSError, ValueError) as error:
                errors.append(repr(error))
            time.sleep(0.1)
    except KeyboardInterrupt:
        ids = list(dict.fromkeys(seen))
        print(f"{reads} reads of {len(ids)} bundles ({', '.join(ids)}), {len(errors)} errors {errors[:3]}")


def lists(bundle, users: int = 50, k: int = 10) -> Sequence[np.ndarray]:
    """Lists of some users, without what they had; ValueError for one that is not as long as it should be."""
    model, seen = bundle.model(), bundle.table("seen.parquet")
    had = dict(seen.group_by("user_id").agg("item_id").iter_rows())
    scores = model.vectors.users[:users] @ model.vectors.items.T
    ids = model.item_ids.to_numpy()
    found = []
    for user, row in zip(model.user_ids[:users], scores, strict=True):
        ranked = ids[np.argsort(-row)]
        found.append(ranked[~np.isin(ranked, had.get(user, []))][:k])
        if len(found[-1]) != k or not np.isfinite(row).all():
            raise ValueError(f"{bundle.id}: no list for {user}")
    return found


if __name__ == "__main__":
    main()
