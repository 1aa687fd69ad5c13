"""Any sequence of extractions, kills and damage: what is read is what was written, or a line says why not."""

import os
import shutil
import tempfile
import zlib
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mmrec.features.errors import InputError
from mmrec.features.store import Failure, FeatureStore, FeatureStoreWriter, ShardRows

SPACE = {"encoder": "fake"}
SHARD_ROWS = 3
VIEWS = {"image": 4, "text": 1}
Item = tuple[int, int]  # id, version; an image of an odd version is broken

changes = st.sampled_from(["append", "insert", "remove", "edit", "edit", "swap", "reverse"])


def vectors(items: list[Item], view: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [zlib.crc32(f"{view} {item}".encode()) for item in items]
    columns = [[(row >> 7 * n) % 128 - 64 for n in range(VIEWS[view])] for row in rows]
    present = np.array([view != "image" or version % 2 == 0 for _, version in items])
    return np.array(columns, np.float32) * present[:, None], present


def cosines(items: list[Item]) -> np.ndarray:
    return np.array([(item % 7) / 8 if version % 2 == 0 else np.nan for item, version in items], np.float32)


def failures(items: list[Item]) -> list[Failure]:
    return [Failure(item, "image", "missing", f"of {item}") for item, version in items if version % 2]


class StoreMachine(RuleBasedStateMachine):
    """The store beside `committed`, the items that it has to hold since the last extraction that ended."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.items: list[Item] = [(n, 0) for n in range(4)]
        self.committed: list[Item] | None = None
        self.new_id = 100
        self.damaged = False  # whether any file of the store was harmed since then

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(change=changes, at=st.integers(0, 40), version=st.integers(0, 3))
    def change_catalogue(self, change: str, at: int, version: int) -> None:
        at %= len(self.items)
        self.new_id += 1
        match change:
            case "append" if len(self.items) < 11:
                self.items.append((self.new_id, version))
            case "insert" if len(self.items) < 11:
                self.items.insert(at, (self.new_id, version))
            case "remove" if len(self.items) > 1:
                self.items.pop(at)
            case "edit":
                self.items[at] = (self.items[at][0], version)
            case "swap":
                self.items[at], self.items[0] = self.items[0], self.items[at]
            case _:
                self.items.reverse()

    @rule(killed_before=st.none() | st.integers(0, 3))
    def extract(self, killed_before: int | None) -> None:
        """As an extraction does: what is taken over is not made, so that it had better be right."""
        try:
            writer = FeatureStoreWriter(self.folder, SPACE)
        except InputError as error:  # a damaged manifest, to be removed by hand
            self.one_line(error)
            (self.folder / "manifest.json").unlink()
            self.committed = None
            return
        for index, start in enumerate(range(0, len(self.items), SHARD_ROWS)):
            if index == killed_before:
                return
            items = self.items[start : start + SHARD_ROWS]
            ids, hashes = pl.Series([item for item, _ in items]), [str(version) for _, version in items]
            found = writer.finished(index, ids, hashes)
            if found is not None:
                assert found == failures(items)
                continue
            existing = writer.existing_rows(ids, hashes)
            made = [item for row, item in enumerate(items) if row not in existing.rows]
            columns = {}
            for view in VIEWS:
                values, present = vectors(items, view)
                values[list(existing.rows)], present[list(existing.rows)] = 7, False
                existing.copy_into(view, values, present)
                columns[view] = values, present
            failed = sorted([*existing.failures, *failures(made)], key=lambda failure: failure.item_id)
            assert failed == sorted(failures(items), key=lambda failure: failure.item_id)
            rows = ShardRows(ids, hashes, columns, {"text": cosines(items)}, failures(items))
            writer.write_shard(index, rows)
        writer.commit({})
        self.committed, self.damaged = list(self.items), False

    @precondition(lambda self: any(self.folder.rglob("*.*")))
    @rule(random=st.randoms(use_true_random=False), times=st.integers(1, 10))
    def harm(self, random: Random, times: int) -> None:
        """Harm a file, read all, mend it; the last harm remains."""
        for last in range(times - 1, -1, -1):
            path = random.choice(sorted(path for path in self.folder.rglob("*") if path.is_file()))
            content, was_damaged = path.read_bytes(), self.damaged
            self.damaged = True
            kind = random.choice(["remove", "cut", *["flip"] * 8])
            if kind == "remove":
                path.unlink()
            elif kind == "cut" or not content:
                path.write_bytes(content[: random.randrange(len(content) + 1)])
            else:
                # Past its header a copy of a view is not checked: it is read at the speed of memory.
                # A shard this small is a footer mostly: of it, half of the harm goes to the first fifth.
                size = 128 if path.suffix == ".npy" else len(content) // random.choice([1, 5])
                at = random.randrange(min(max(size, 1), len(content)))
                flipped = content[at] ^ random.randrange(1, 256)
                path.write_bytes(content[:at] + bytes([flipped]) + content[at + 1 :])
            if path.suffix != ".npy":
                shutil.rmtree(self.folder / ".cache", ignore_errors=True)
            self.read([0, 1, 1])
            if last:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
                self.damaged = was_damaged

    @rule(chosen=st.lists(st.integers(0, 40), max_size=8))
    def read(self, chosen: list[int]) -> None:
        try:
            store = FeatureStore(self.folder)
            items = self.committed
            assert items is not None and store.item_ids.to_list() == [item for item, _ in items]
            assert store.content_hashes.to_list() == [str(version) for _, version in items]
            rows = np.array([row % len(items) for row in chosen], np.int64)
            ids = pl.Series([items[row][0] for row in rows], dtype=pl.Int64)
            for view in VIEWS:
                values, present = vectors(items, view)
                for found, has in (store.read(view), store.take(view, np.arange(len(items)))):
                    assert (found == values).all() and (has == present).all()
                found, has = store.read(view, ids)
                assert (found == values[rows]).all() and (has == present[rows]).all()
            np.testing.assert_array_equal(store.similarity("text", ids), cosines(items)[rows])
            expected = [(failure.item_id, failure.message) for failure in failures(items)]
            assert store.failures().select("item_id", "message").rows() == expected
        except InputError as error:
            assert self.damaged
            self.one_line(error)
        except FileNotFoundError as error:
            assert self.damaged or self.committed is None
            assert "no feature store here" in str(error)

    @invariant()
    def nothing_is_left_over(self) -> None:
        if self.committed is None or self.damaged:
            return
        try:
            FeatureStore(self.folder).verify()
        except FileNotFoundError:
            assert self.committed is None

    @staticmethod
    def one_line(error: InputError) -> None:
        assert "\n" not in str(error) and "mmrec extract" in str(error)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=int(os.environ.get("MMREC_EXAMPLES", "40")), stateful_step_count=12, deadline=None
)
