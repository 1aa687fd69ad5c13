"""What overlaps while shards are made changes nothing of what is made."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.encoders import registry
from mmrec.features.errors import InputError
from mmrec.features.files import file_sha256
from mmrec.features.store import FeatureStore
from mmrec.features.store_writer import FeatureStoreWriter
from mmrec.stages import encoding
from mmrec.stages.extract import ExtractReport, extract

N = 40


@pytest.fixture
def bazaar(tmp_path, png) -> Path:
    """A catalogue of 40 items: some without a picture, with several, or with one that is none."""
    folder = tmp_path / "bazaar"
    folder.mkdir()
    for n in range(N):
        (folder / f"{n}.png").write_bytes(png((5 * n, 255 - 5 * n, 40)) if n % 11 else b"no picture")
    images = [None if n % 7 == 3 else [f"{n}.png", f"{(n + 1) % N}.png"][: 1 + n % 2] for n in range(N)]
    titles = [f"title {n % 5}" if n % 4 else None for n in range(N)]
    pl.DataFrame({"item_id": range(N), "image": images, "title": titles}).write_parquet(
        folder / "items.parquet"
    )
    return folder


def run(bazaar: Path, store: Path, **settings) -> ExtractReport:
    catalog = CatalogConfig(
        items=str(bazaar / "items.parquet"), image="image", readers=settings.pop("readers", 3)
    )
    asked = {"text_views": {"title": "{title}"}, "image_views": ("full", "quadrants"), "shard_rows": 4}
    return extract(catalog, ExtractConfig(**{**asked, "batch_size": 3, **settings}), store)


def checksums(store: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in store.iterdir() if path.is_file()}


def test_any_number_of_workers_gives_the_same_files(encoder, bazaar, tmp_path, monkeypatch) -> None:
    run(bazaar, tmp_path / "one", workers=1, readers=1)
    run(bazaar, tmp_path / "many", workers=3, readers=7)
    monkeypatch.setattr(encoding, "KEPT_BYTES", 150)  # what is known of a shard takes two readings then
    run(bazaar, tmp_path / "small", shard_rows=8)
    run(bazaar, tmp_path / "small", shard_rows=4, normalise=False)
    run(bazaar, tmp_path / "small")
    assert checksums(tmp_path / "one") == checksums(tmp_path / "many")
    one, small = FeatureStore(tmp_path / "one"), FeatureStore(tmp_path / "small")
    for view in one.views:
        np.testing.assert_array_equal(one.read(view)[0], small.read(view)[0])


def test_a_shard_is_read_and_another_written_while_one_is_encoded(
    encoder, bazaar, tmp_path, monkeypatch
) -> None:
    """The encoder waits for the next shard's pictures to be read, and for the last one to be on its way."""
    read, writing, late = threading.Event(), threading.Event(), []
    read_item, write, encode = encoding.read_item, FeatureStoreWriter.write_shard, encoder.encode_images

    def noted_read(reader, references):
        if "12.png" in references:  # of the fourth shard
            read.set()
        return read_item(reader, references)

    def noted_write(self, index, rows):
        writing.set()
        if not read.wait(10):
            late.append(index)
        write(self, index, rows)

    def slow_encode(pixels):
        if encoder.images > 12 and not (writing.wait(10) and read.wait(10)):
            late.append("encode")
        return encode(pixels)

    monkeypatch.setattr(encoding, "read_item", noted_read)
    monkeypatch.setattr(FeatureStoreWriter, "write_shard", noted_write)
    monkeypatch.setattr(encoder, "encode_images", slow_encode)
    run(bazaar, tmp_path / "store")
    assert late == [] and len(FeatureStore(tmp_path / "store")) == N


def interrupted(bazaar: Path, store: Path, encoder, monkeypatch, signals: int) -> None:
    """An extraction that gets so many signals while the third batch is encoded."""
    encode, calls = encoder.encode_images, []

    def signalled(pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
        return encode(pixels)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoder, "encode_images", signalled)
        run(bazaar, store)


def test_a_first_signal_lets_the_shard_in_flight_be_finished(
    encoder, bazaar, tmp_path, monkeypatch, caplog
) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    interrupted(bazaar, tmp_path / "store", encoder, monkeypatch, signals=1)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert len(list((tmp_path / "store").glob("part-*.parquet"))) == 1
    assert "SIGTERM: stopping after shard 0, which has " in caplog.text and " of 4 items left" in caplog.text
    report = run(bazaar, tmp_path / "store")
    assert (report.encoded, report.reused) == (N - 4, 4)
    run(bazaar, tmp_path / "whole")
    assert checksums(tmp_path / "store") == checksums(tmp_path / "whole")


def test_a_second_signal_interrupts_at_once(encoder, bazaar, tmp_path, monkeypatch) -> None:
    interrupted(bazaar, tmp_path / "store", encoder, monkeypatch, signals=2)
    assert not list((tmp_path / "store").iterdir())
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith(("read", "ahead", "write"))
    ]


def test_an_encoder_that_cannot_be_loaded_ends_the_run(encoder, bazaar, tmp_path, monkeypatch) -> None:
    """What it is called is known from the store, so pictures are on their way before it is missed."""
    run(bazaar, tmp_path / "store")

    def fail(*_):
        time.sleep(0.3)  # until a picture waits for the pool
        raise InputError("no such device")

    monkeypatch.setattr(registry, "load_image_encoder", fail)
    pl.read_parquet(bazaar / "items.parquet").with_columns(title=pl.lit("other")).write_parquet(
        bazaar / "items.parquet"
    )
    with pytest.raises(InputError, match="no such device"):
        run(bazaar, tmp_path / "store")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_what_a_run_was_busy_with_is_told(encoder, bazaar, tmp_path, caplog) -> None:
    with caplog.at_level("INFO"):
        report = run(bazaar, tmp_path / "store")
    assert report.pace is not None and report.pace.items == N
    assert set(report.facts()["pace"]["busy"]) == {"read", "decode", "transform", "encode", "write"}
    assert "extract: 40 items in " in caplog.text and "the limit is " in caplog.text
    assert run(bazaar, tmp_path / "store").pace is None
