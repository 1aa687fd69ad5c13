import logging
import os
import resource
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmrec.features.errors import InputError
from mmrec.features.store import Failure, FeatureStore, FeatureStoreWriter, ShardRows, read_manifest

SPACE = {"encoder": {"name": "fake", "dim": 3}, "views": ["image.full", "text.title"]}
Item = tuple[int | str, str]  # item id, content hash; the vectors below are made from both


def vector(item: Item, view: str) -> np.ndarray:
    seed = zlib.crc32(f"{item}{view}".encode())
    return np.random.default_rng(seed).standard_normal(3).astype(np.float16)


def has_image(item: Item) -> bool:
    return not item[1].startswith("broken")


def shard_of(items: list[Item]) -> ShardRows:
    """Every item has a title; those with a hash "broken..." have no image, and a failure."""
    present = np.array([has_image(item) for item in items])
    images = np.array([vector(item, "image") for item in items]) * present[:, None]
    return ShardRows(
        item_ids=pl.Series("item_id", [item_id for item_id, _ in items]),
        content_hashes=[content_hash for _, content_hash in items],
        vectors={
            "image.full": (images, present),
            "text.title": (np.array([vector(item, "title") for item in items]), np.ones(len(items), bool)),
        },
        similarity={"title": np.where(present, np.float32(0.25), np.nan)},
        failures=[Failure(item[0], "image.full", "missing", "gone") for item in items if not has_image(item)],
    )


def write(folder: Path, shards: list[list[Item]], space: dict[str, object] = SPACE) -> bool:
    """What the extraction does: skip what is finished, take over what is known, compute the rest.

    Returns whether the store changed.
    """
    writer = FeatureStoreWriter(folder, space)
    for index, items in enumerate(shards):
        rows = shard_of(items)
        if writer.finished(index, rows.item_ids, rows.content_hashes) is None:
            existing = writer.existing_rows(rows.item_ids, rows.content_hashes)
            for view, (values, present) in rows.vectors.items():
                existing.copy_into(view, values, present)
            writer.write_shard(index, rows)
    changed = writer.changed
    writer.commit({"texts": 3})
    return changed


def assert_holds(store: FeatureStore, items: list[Item]) -> None:
    assert store.item_ids.to_list() == [item_id for item_id, _ in items]
    images, has = store.read("image.full")
    assert has.tolist() == [has_image(item) for item in items]
    expected = np.array([vector(item, "image") if has_image(item) else np.zeros(3) for item in items])
    assert (images == expected).all()
    titles, has = store.read("text.title")
    assert has.all() and (titles == np.array([vector(item, "title") for item in items])).all()
    assert store.failures()["item_id"].to_list() == [item[0] for item in items if not has_image(item)]


OLD: list[list[Item]] = [[(1, "a"), (2, "broken"), (3, "c")], [(4, "d"), (5, "e")]]
NEW: list[list[Item]] = [[(1, "a"), (2, "b"), (3, "c")], [(4, "d"), (5, "e")], [(6, "f"), (7, "broken")]]


def flat(shards: list[list[Item]]) -> list[Item]:
    return [item for shard in shards for item in shard]


def test_a_store_gives_back_what_was_written(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    store = FeatureStore(tmp_path)
    assert_holds(store, flat(OLD))
    assert (len(store), store.views, store.dim("image.full")) == (5, ["image.full", "text.title"], 3)
    np.testing.assert_array_equal(store.similarity("title"), np.float32([0.25, np.nan, 0.25, 0.25, 0.25]))
    assert store.failures().rows() == [(2, "image.full", "missing", "gone")]
    store.verify()
    manifest = store.manifest
    assert manifest["space"] == SPACE and manifest["stats"] == {"texts": 3}
    assert manifest["failed_items"] == 1 and manifest["failed_reasons"] == {"missing": 1}
    assert manifest["views"]["image.full"] == {"dim": 3, "present": 4}
    assert [shard["file"] for shard in manifest["shards"]] == ["part-00000.parquet", "part-00001.parquet"]


def test_polars_reads_the_shards(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    table = pl.read_parquet(tmp_path / "part-*.parquet")
    assert table.columns == ["item_id", "content_hash", "image.full", "text.title", "similarity.title"]
    assert table["image.full"].is_null().to_list() == [False, True, False, False, False]
    assert table["image.full"].dtype == pl.Array(pl.Float16, 3)
    assert table["similarity.title"].null_count() == 1


@pytest.mark.parametrize("as_id", [int, str])
def test_rows_come_in_the_order_asked_for(tmp_path: Path, as_id: type) -> None:
    items: list[Item] = [(as_id(item_id), content) for item_id, content in flat(OLD)]
    write(tmp_path, [items[:3], items[3:]])
    store = FeatureStore(tmp_path)
    values, present = store.read("image.full", pl.Series([as_id(4), as_id(2), as_id(4)]))
    assert values.flags.c_contiguous and values.dtype == np.float16
    assert present.tolist() == [True, False, True]
    expected = vector((as_id(4), "d"), "image")
    assert (values == np.array([expected, np.zeros(3), expected])).all()
    assert np.isnan(store.similarity("title", pl.Series([as_id(2)]))).all()


def test_missing_items_views_and_wrong_id_types_are_named(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    store = FeatureStore(tmp_path)
    with pytest.raises(InputError, match=r"2 of 3 items have no feature row \(first: 8, 9\)"):
        store.read("image.full", pl.Series([8, 1, 9]))
    with pytest.raises(InputError, match=r"no view 'text.titel' \(did you mean 'text.title'\?\)"):
        store.read("text.titel")
    with pytest.raises(InputError, match="no similarity for text view 'text'"):
        store.similarity("text")
    with pytest.raises(InputError, match="ids of type Int64, asked for String"):
        store.read("image.full", pl.Series(["1"]))


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert not write(tmp_path, OLD)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_unchanged_rows_are_taken_over_with_their_failures(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    writer = FeatureStoreWriter(tmp_path, SPACE)
    existing = writer.existing_rows(pl.Series([9, 5, 2, 1]), ["x", "e", "broken", "changed"])
    assert sorted(existing.rows) == [1, 2]
    assert existing.failures == [Failure(2, "image.full", "missing", "gone")]
    values, present = np.full((4, 3), 7, np.float32), np.zeros(4, bool)
    existing.copy_into("image.full", values, present)
    assert present.tolist() == [False, True, False, False]
    assert (values[1] == vector((5, "e"), "image")).all() and (values[[0, 3]] == 7).all()
    assert not writer.existing_rows(pl.Series(["5"]), ["e"]).rows  # another id type is another item


def test_rows_of_another_space_are_not_taken_over(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    other = {**SPACE, "encoder": {"name": "other", "dim": 3}}
    writer = FeatureStoreWriter(tmp_path, other)
    rows = shard_of(OLD[0])
    assert writer.finished(0, rows.item_ids, rows.content_hashes) is None
    assert not writer.existing_rows(rows.item_ids, rows.content_hashes).rows
    writer.write_shard(0, rows)
    assert_holds(FeatureStore(tmp_path), flat(OLD))  # the old store lives until the commit
    writer.commit({})
    assert read_manifest(tmp_path)["space"] == other


def test_a_shrunken_catalogue_loses_its_last_shards(tmp_path: Path) -> None:
    write(tmp_path, NEW)
    write(tmp_path, NEW[:2])
    assert_holds(FeatureStore(tmp_path), flat(NEW[:2]))
    assert not (tmp_path / "part-00002.parquet").exists()


@pytest.mark.parametrize("start", [[], OLD])
def test_a_kill_at_any_instant_leaves_the_old_state_or_the_new_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: list[list[Item]]
) -> None:
    """Copies the folder before every sync, rename and removal: what SIGKILL would leave there."""
    folder = tmp_path / "store"
    if start:
        write(folder, start)
    snapshots: list[Path] = []

    def before(call: Callable[..., object]) -> Callable[..., object]:
        def snapshot_and_call(*args: object, **kwargs: object) -> object:
            snapshots.append(tmp_path / f"{len(snapshots)}")
            shutil.copytree(folder, snapshots[-1])
            return call(*args, **kwargs)

        return snapshot_and_call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", before(os.fsync))
        patch.setattr(Path, "replace", before(Path.replace))
        patch.setattr(Path, "unlink", before(Path.unlink))
        write(folder, NEW)
    assert len(snapshots) > 10
    for snapshot in snapshots:
        if (snapshot / "manifest.json").exists():
            store = FeatureStore(snapshot)
            assert_holds(store, flat(NEW if store.manifest["rows"] == 7 else OLD))
        else:
            assert not start
        write(snapshot, NEW)
        resumed = FeatureStore(snapshot)
        assert_holds(resumed, flat(NEW))
        resumed.verify()
        manifest = resumed.manifest
        assert {path.name for path in snapshot.iterdir() if path.name != ".cache"} == {
            "manifest.json",
            manifest["failures"],
            *(shard["file"] for shard in manifest["shards"]),
        }


def test_resuming_computes_no_finished_shard_again(tmp_path: Path) -> None:
    first = FeatureStoreWriter(tmp_path, SPACE)
    first.write_shard(0, shard_of(NEW[0]))
    first.write_shard(1, shard_of(NEW[1]))
    second = FeatureStoreWriter(tmp_path, SPACE)  # the first was killed
    finished = [
        second.finished(index, rows.item_ids, rows.content_hashes)
        for index, rows in enumerate(map(shard_of, NEW))
    ]
    assert finished == [[], [], None]
    with pytest.raises(FileNotFoundError, match="no feature store here"):
        FeatureStore(tmp_path)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow past `size` bytes: writes fail in Python and in Arrow as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    before = sorted(tmp_path.iterdir())
    writer = FeatureStoreWriter(tmp_path, SPACE)
    with pytest.raises(OSError, match="too large"), disk_of(200):
        writer.write_shard(0, shard_of(NEW[0]))
    assert sorted(tmp_path.iterdir()) == before
    writer.write_shard(0, shard_of(NEW[0]))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="too large"), disk_of(200):
        writer.commit({})
    assert sorted(tmp_path.iterdir()) == before
    assert_holds(FeatureStore(tmp_path), flat(OLD))


def test_a_view_is_read_into_memory_where_no_copy_can_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, OLD)
    with disk_of(100), caplog.at_level(logging.WARNING):
        assert_holds(FeatureStore(tmp_path), flat(OLD))
    assert "reading it into memory" in caplog.text
    assert list((tmp_path / ".cache").iterdir()) == []


def test_views_are_copied_once_and_old_copies_go(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    FeatureStore(tmp_path).read("image.full")
    first = {path.name for path in (tmp_path / ".cache").iterdir()}
    assert len(first) == 2  # vectors and mask
    again, _ = FeatureStore(tmp_path).read("image.full")
    assert isinstance(again, np.memmap) and not again.flags.writeable
    write(tmp_path, NEW)
    assert not first & {path.name for path in (tmp_path / ".cache").iterdir()}
    assert_holds(FeatureStore(tmp_path), flat(NEW))


def flip_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


def test_a_damaged_shard_is_named_in_one_line_and_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, OLD)
    shard = tmp_path / "part-00001.parquet"
    content = shard.read_bytes()
    flip_byte(shard, content.index(vector((5, "e"), "image").tobytes()))
    store = FeatureStore(tmp_path)
    for check in (store.verify, lambda: store.read("image.full")):
        with pytest.raises(InputError, match=r"part-00001.parquet: damaged shard") as caught:
            check()
        assert "\n" not in str(caught.value) and "mmrec extract" in str(caught.value)
    with caplog.at_level(logging.WARNING):
        write(tmp_path, OLD)
    assert "part-00001.parquet is missing or damaged" in caplog.text
    assert_holds(FeatureStore(tmp_path), flat(OLD))


def test_damaged_ids_are_noticed_even_beside_a_good_copy(tmp_path: Path) -> None:
    write(tmp_path, [[("first item", "a"), ("second item", "b")]])
    FeatureStore(tmp_path).read("image.full")
    shard = tmp_path / "part-00000.parquet"
    flip_byte(shard, shard.read_bytes().index(b"second item") + 1)
    with pytest.raises(InputError, match="damaged shard"):
        _ = FeatureStore(tmp_path).item_ids


def test_a_missing_shard_is_named_and_computed_again(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    (tmp_path / "part-00000.parquet").unlink()
    with pytest.raises(InputError, match=r"part-00000.parquet: damaged shard \(the file is gone\)"):
        FeatureStore(tmp_path)
    write(tmp_path, OLD)
    assert_holds(FeatureStore(tmp_path), flat(OLD))


def test_a_view_is_read_without_the_others(tmp_path: Path) -> None:
    n, dim, views = 2000, 64, [f"view{view}" for view in range(6)]
    ids, has = pl.Series(range(n)), np.ones(n, bool)
    vectors = np.random.default_rng(0).standard_normal((len(views), n, dim)).astype(np.float16)
    rows = ShardRows(ids, ["hash"] * n, dict(zip(views, [(values, has) for values in vectors], strict=True)))
    writer = FeatureStoreWriter(tmp_path, SPACE)
    writer.write_shard(0, rows)
    writer.commit({})
    before = bytes_read()
    values, _ = FeatureStore(tmp_path).read("view3", ids.shuffle(seed=1))
    assert bytes_read() - before < 2 * n * dim * 2  # with the ids and the footer, but without another view
    assert (values == vectors[3][ids.shuffle(seed=1)]).all()


def bytes_read() -> int:
    """By this process, through read calls, so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_damage_in_one_view_leaves_the_others_readable(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    shard = tmp_path / "part-00001.parquet"
    flip_byte(shard, shard.read_bytes().index(vector((5, "e"), "title").tobytes()))
    store = FeatureStore(tmp_path)
    images, _ = store.read("image.full")
    assert (images[4] == vector((5, "e"), "image")).all()
    for check in (store.verify, lambda: store.read("text.title")):
        with pytest.raises(InputError, match=r"part-00001.parquet: damaged shard"):
            check()


def test_another_file_under_the_name_of_a_shard_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "a", OLD)
    write(tmp_path / "b", [[(1, "x"), (2, "y"), (3, "z")]])
    shutil.copy(tmp_path / "b" / "part-00000.parquet", tmp_path / "a")
    with pytest.raises(InputError, match=r"part-00000.parquet: damaged shard"):
        FeatureStore(tmp_path / "a").read("image.full")


def test_a_damaged_shard_that_waits_for_its_commit_is_written_again(tmp_path: Path) -> None:
    FeatureStoreWriter(tmp_path, SPACE).write_shard(0, shard_of(OLD[0]))  # and the writer was killed
    shard = tmp_path / "part-00000.parquet"
    flip_byte(shard, shard.read_bytes().index(vector((1, "a"), "image").tobytes()))
    write(tmp_path, OLD)
    assert_holds(FeatureStore(tmp_path), flat(OLD))


def test_a_damaged_list_of_failures_is_named_and_written_again(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    flip_byte(tmp_path / "failures.parquet", 100)
    with pytest.raises(InputError, match=r"failures.parquet: damaged list of failures"):
        FeatureStore(tmp_path).verify()
    assert write(tmp_path, OLD)
    assert_holds(FeatureStore(tmp_path), flat(OLD))


def test_many_small_updates_leave_the_store_that_one_extraction_makes(tmp_path: Path) -> None:
    catalogue: list[Item] = [(n, "a") for n in range(20)]
    rng = np.random.default_rng(0)
    for step in range(30):
        at = int(rng.integers(len(catalogue)))
        match step % 4:
            case 0:
                catalogue.append((100 + step, "b"))
            case 1:
                catalogue.insert(0, (100 + step, "broken"))
            case 2:
                catalogue.pop(at)
            case _:
                catalogue[at] = (catalogue[at][0], f"version {step}")
        shards = [catalogue[start : start + 8] for start in range(0, len(catalogue), 8)]
        write(tmp_path / "updated", shards)
        write(tmp_path / f"{step}", shards)
        updated, made_at_once = FeatureStore(tmp_path / "updated"), FeatureStore(tmp_path / f"{step}")
        assert_holds(updated, catalogue)
        updated.verify()
        files = {updated.manifest["failures"], *(shard["file"] for shard in updated.manifest["shards"])}
        on_disk = {path.name for path in updated.folder.iterdir()}
        assert on_disk == files | {"manifest.json", ".cache"} and len(files) == 1 + len(shards)
        checksums = [
            [shard["sha256"] for shard in store.manifest["shards"]] for store in (updated, made_at_once)
        ]
        assert checksums[0] == checksums[1]


@pytest.mark.parametrize("scattered", [False, True])
def test_rows_are_taken_by_number_with_and_without_a_copy_of_the_view(
    tmp_path: Path, scattered: bool
) -> None:
    catalogue: list[Item] = [(n, "broken" if n % 7 == 0 else "a") for n in range(64)]
    write(tmp_path, [catalogue[start : start + 16] for start in range(0, 64, 16)])
    rows = np.array([40, 7, 3] if scattered else range(60, 10, -1))
    values, present = FeatureStore(tmp_path).take("image.full", rows)
    expected, has = FeatureStore(tmp_path).read("image.full")
    assert (values == expected[rows]).all() and (present == has[rows]).all()


OLD_SCHEMA = Path(__file__).with_name("store_schema_1")  # `OLD`, as mmrec 0.1.0 first wrote it


def test_a_store_of_schema_1_is_read_and_carried_over(tmp_path: Path) -> None:
    shutil.copytree(OLD_SCHEMA, tmp_path, dirs_exist_ok=True)
    store = FeatureStore(tmp_path)
    store.verify()
    assert_holds(store, flat(OLD))
    np.testing.assert_array_equal(store.similarity("title"), np.float32([0.25, np.nan, 0.25, 0.25, 0.25]))
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert not write(tmp_path, OLD)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    kept = tmp_path / "part-00001.parquet"
    assert write(tmp_path, NEW)  # one shard of the three is as it was
    assert_holds(FeatureStore(tmp_path), flat(NEW))
    assert kept.read_bytes() == before[kept] and read_manifest(tmp_path)["schema"] == 2
    FeatureStore(tmp_path).verify()


def test_no_row_of_a_store_of_schema_1_is_computed_again(tmp_path: Path) -> None:
    shutil.copytree(OLD_SCHEMA, tmp_path, dirs_exist_ok=True)
    writer = FeatureStoreWriter(tmp_path, SPACE)
    items = [(9, "new"), *flat(OLD)]  # every shard is another one
    rows = shard_of(items)
    existing = writer.existing_rows(rows.item_ids, rows.content_hashes)
    assert sorted(existing.rows) == [1, 2, 3, 4, 5]
    values, present = np.zeros((6, 3), np.float32), np.zeros(6, bool)
    existing.copy_into("image.full", values, present)
    assert present.tolist() == [False, True, False, True, True, True]
    assert (values[5] == vector((5, "e"), "image")).all()


def test_a_damaged_shard_of_schema_1_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(OLD_SCHEMA, tmp_path, dirs_exist_ok=True)
    flip_byte(tmp_path / "part-00000.parquet", 500)
    with pytest.raises(InputError, match=r"part-00000.parquet: damaged shard"):
        FeatureStore(tmp_path).read("image.full")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"schema": 1, "rows": NaN}', "not valid JSON"),
        ("[]", r"schema None, expected 1 to 2"),
        ('{"schema": 1}', "no rows, space"),
        ('{"schema": 2, "rows": 3, "checksum": "0"}', "does not have its checksum"),
        (
            '{"schema": 3, "libraries": {"mmrec": "4.5"}}',
            r"schema 3, made by mmrec 4\.5; this is mmrec .* which reads schemas 1 to 2\. Update mmrec",
        ),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    for open_store in (FeatureStore, lambda folder: FeatureStoreWriter(folder, SPACE)):
        with pytest.raises(InputError, match=message):
            open_store(tmp_path)


def test_an_edited_manifest_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    manifest = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(manifest.replace('"fake"', '"fakf"'))
    with pytest.raises(InputError, match="does not have its checksum"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("read_only", [False, True])
def test_float32_is_rounded_as_numpy_rounds(tmp_path: Path, read_only: bool) -> None:
    pytest.importorskip("torch")  # which does it where it is loaded
    patterns = np.random.default_rng(0).integers(0, 2**32, 2**16, dtype=np.uint32).view(np.float32)
    edges = np.float32([0, -0.0, 65504, 65519, 2**-24, 2**-25, 1.5 * 2**-25, 1 + 2**-11, 1 + 3 * 2**-11])
    values = np.append(edges, patterns[np.abs(patterns) < 65519]).reshape(-1, 1)
    values.flags.writeable = not read_only
    ids, has = pl.Series(range(len(values))), np.ones(len(values), bool)
    writer = FeatureStoreWriter(tmp_path, SPACE)
    writer.write_shard(0, ShardRows(ids, [""] * len(ids), {"all": (values, has)}))
    writer.commit({})
    stored, _ = FeatureStore(tmp_path).read("all")
    assert stored.tobytes() == values.astype(np.float16).tobytes()


@pytest.mark.parametrize("bad", [np.nan, 1e6])
def test_vectors_that_float16_cannot_hold_are_refused(tmp_path: Path, bad: float) -> None:
    rows = shard_of(OLD[0])
    values = rows.vectors["image.full"][0].astype(np.float32)
    values[2, 1] = bad
    rows.vectors["image.full"] = values, rows.vectors["image.full"][1]
    with pytest.raises(InputError, match=r"image.full: 1 vectors .* \(first: item 3\)"):
        FeatureStoreWriter(tmp_path, SPACE).write_shard(0, rows)
    assert list(tmp_path.iterdir()) == []


def test_a_commit_with_a_gap_is_an_error(tmp_path: Path) -> None:
    writer = FeatureStoreWriter(tmp_path, SPACE)
    writer.write_shard(1, shard_of(OLD[1]))
    with pytest.raises(ValueError, match="not 0 to n - 1"):
        writer.commit({})
