"""Items that failed are encoded once more when that is asked for, and nothing else is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.errors import InputError
from mmrec.features.store import FeatureStore
from mmrec.stages.extract import ExtractReport, extract


def run(shop: Path, store: Path, retry: str | None = None) -> ExtractReport:
    catalog = CatalogConfig(items=str(shop / "items.csv"), image="image")
    return extract(catalog, ExtractConfig(shard_rows=2, batch_size=1, max_failures=1.0), store, retry=retry)


def is_red(pixels: Sequence[np.ndarray]) -> np.ndarray:
    """(n, 1) bool: whether they are d's."""
    return (np.mean(pixels, axis=(2, 3)) == [180, 0, 75]).all(axis=1, keepdims=True)


@pytest.fixture
def store(encoder, shop, tmp_path, monkeypatch) -> Path:
    """Of items a to e: b's picture is none, and the encoder gave NaN for d's."""
    (shop / "1.png").write_text("not a picture")
    encode = encoder.encode_images
    with monkeypatch.context() as patch:
        patch.setattr(
            encoder, "encode_images", lambda pixels: encode(pixels) * np.where(is_red(pixels), np.nan, 1)
        )
        run(shop, tmp_path / "store")
    assert ledger(tmp_path / "store") == {"b": "not_an_image", "d": "not_finite"}
    encoder.images = 0
    return tmp_path / "store"


def ledger(store: Path) -> dict[str, str]:
    return dict(FeatureStore(store).failures().select("item_id", "reason").iter_rows())


def test_without_being_asked_nothing_is_tried_again(encoder, shop, store) -> None:
    assert run(shop, store).up_to_date and encoder.images == 0


def test_items_that_failed_for_the_reason_are_encoded_again(encoder, shop, store) -> None:
    report = run(shop, store, "not_finite")
    assert (report.encoded, report.reused, encoder.images) == (1, 4, 1)
    assert ledger(store) == {"b": "not_an_image"}
    assert FeatureStore(store).read("image.full")[1].tolist() == [True, False, True, True, False]
    assert run(shop, store).up_to_date and run(shop, store, "not_finite").up_to_date


def test_all_that_failed_are_encoded_again_as_often_as_that_is_asked_for(encoder, shop, store) -> None:
    assert [run(shop, store, "any").encoded for _ in range(3)] == [2, 1, 1]
    assert ledger(store) == {"b": "not_an_image"}


def test_what_was_tried_again_before_a_kill_is_kept(encoder, shop, store, monkeypatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def killed(_):
            raise KeyboardInterrupt

        patch.setattr(encoder, "encode_images", killed)  # d's, in the second shard; b has nothing to encode
        run(shop, store, "any")
    report = run(shop, store, "any")
    assert (report.encoded, encoder.images) == (1, 1)


def test_a_reason_that_no_ledger_holds_is_refused(encoder, shop, store) -> None:
    with pytest.raises(InputError, match=r"'time_out'; reasons are missing, .*not_finite"):
        run(shop, store, "time_out")
