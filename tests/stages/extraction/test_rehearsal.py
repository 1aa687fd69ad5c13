"""What an extraction is said to take before it is begun."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.stages import encoding
from mmrec.stages.extract import extract
from mmrec.stages.extraction import rehearsal
from mmrec.stages.extraction.advice import advise
from mmrec.stages.extraction.estimate import Alternative, Estimate
from mmrec.stages.extraction.pace import TextLoad
from mmrec.stages.extraction.rehearsal import rehearse

ESTIMATE = Estimate(
    items=1_000_000,
    shards=489,
    sampled=400,
    failed=0,
    reasons={},
    read=1e-4,
    decode=6e-4,
    transform=4e-4,
    images=0.02,
    texts=0.001,
    joint=0.0,
    workers=2,
    cores=4,
    on_gpu=True,
    batch_size=256,
    disk=10**9,
    disk_free=10**10,
    memory=10**9,
    memory_free=10**10,
    gpu_memory=10**9,
    text_load=TextLoad(items=10, texts=50, distinct=20, long=0, windows=[[1]] * 20),
)


def given(shop: Path, **settings) -> tuple[CatalogConfig, ExtractConfig]:
    config = ExtractConfig(
        **{"text_views": {"title": "{title}"}, "image_views": ("full", "quadrants"), **settings}
    )
    return CatalogConfig(items=str(shop / "items.csv"), image="image"), config


@pytest.fixture
def slow(encoder, monkeypatch):
    """An encoder that takes 4 ms for a crop and 1 ms for a text."""
    images, tokens = encoder.encode_images, encoder.encode_tokens

    def slowly(encode, seconds):
        return lambda inputs: time.sleep(seconds * len(inputs)) or encode(inputs)

    monkeypatch.setattr(rehearsal, "find_spec", lambda _: None)  # OpenVINO converts no such encoder
    monkeypatch.setattr(encoder, "encode_images", slowly(images, 0.004))
    monkeypatch.setattr(encoder, "encode_tokens", slowly(tokens, 0.001))
    return encoder


def test_the_time_of_all_items_follows_from_the_sample_and_nothing_is_written(slow, shop, tmp_path) -> None:
    (shop / "0.png").write_text("not a picture")
    found = rehearse(*given(shop), tmp_path / "out" / "store")
    assert not (tmp_path / "out").exists()
    assert (found.items, found.sampled, found.failed, found.reasons) == (5, 5, 1, {"not_an_image": 1})
    assert found.images == pytest.approx(3 * 5 * 0.004 / 5, rel=0.3)  # three pictures of five crops each
    assert found.texts == pytest.approx(5 * 0.001 / 5, rel=0.4)  # three texts, one of three windows
    assert found.limit == "encode" and found.seconds == pytest.approx(5 * found.item_seconds)
    assert found.advice[0].change.startswith("the images that fail")
    json.dumps(found.facts())


def test_a_sample_is_spread_over_the_catalogue(slow, shop, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(rehearsal, "SAMPLE", 3)
    read = []
    read_item = encoding.read_item
    monkeypatch.setattr(
        encoding, "read_item", lambda reader, images: read.append(images) or read_item(reader, images)
    )
    assert rehearse(*given(shop), tmp_path / "store").sampled == 3
    assert sorted(read) == [(), ("0.png",), ("2.png",)]  # the fifth item has no picture
    monkeypatch.setattr(rehearsal, "SAMPLE_BYTES", 1)
    assert rehearse(*given(shop), tmp_path / "store").sampled < 3  # not all pictures are held in memory


def test_the_disk_that_a_store_takes_is_foretold(tmp_path) -> None:
    np.save(tmp_path / "visual.npy", np.random.default_rng(0).random((4000, 64), np.float32))
    config = ExtractConfig(foreign={"visual": str(tmp_path / "visual.npy")})
    found = rehearse(None, config, tmp_path / "store")
    extract(None, config, tmp_path / "store")
    size = sum(path.stat().st_size for path in (tmp_path / "store").glob("part-*.parquet"))
    assert found.disk == pytest.approx(size, rel=0.05)


def changes(found: Estimate, **settings) -> list[str]:
    return [advice.change for advice in advise(found, ExtractConfig(**settings), readers=16)]


def test_steps_overlap_but_share_the_cores_where_there_is_no_gpu() -> None:
    assert ESTIMATE.seconds == pytest.approx(21_000) and ESTIMATE.limit == "encode"
    assert replace(ESTIMATE, on_gpu=False).item_seconds == pytest.approx(0.021 + 0.001 / 4)
    assert changes(ESTIMATE) == []


def test_what_limits_is_what_the_advice_is_about() -> None:
    quick = replace(ESTIMATE, images=1e-4, texts=0.0)
    assert quick.limit == "decode" and changes(quick) == ["extract.workers = 4"]
    assert changes(replace(quick, workers=4)) == ["a machine of 10 cores, or images stored smaller"]
    assert changes(replace(quick, read=0.01)) == ["catalog.readers = 32"]
    tried = [Alternative('extract.precision = "bf16"', 0.007, 0.9999), Alternative("worse", 0.018, 1.0)]
    assert changes(replace(ESTIMATE, alternatives=tried)) == ['extract.precision = "bf16"']


def test_texts_that_cost_much_are_named_with_the_reason() -> None:
    heavy = replace(ESTIMATE, texts=0.05)
    assert changes(heavy) == []  # most are identical, and short
    distinct = replace(heavy, text_load=TextLoad(10, 50, 45, 0, [[1]] * 45))
    assert changes(distinct) == ["fewer text views, or views of one field each"]
    long = replace(heavy, text_load=TextLoad(10, 50, 45, 9, [[1]] * 90))
    assert changes(long) == ['extract.long_text = "truncate", or shorter text views']
    assert changes(long, long_text="truncate") == ["fewer text views, or views of one field each"]


def test_what_would_stop_the_job_comes_first() -> None:
    tight = replace(
        ESTIMATE, disk_free=10**8, memory_free=10**8, failed=40, reasons={"missing": 40}, images=2.0
    )
    assert changes(tight) == [
        "free disk space, or another run.features",
        "smaller extract.shard_rows, extract.batch_size or extract.workers",
        "the images that fail, or extract.max_failures",
        "extract.shard_rows = 256",
    ]
