"""What actors of Ray do, here by calling them: no cluster is needed for that."""

import errno
from pathlib import Path

import pytest

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.errors import InputError
from mmrec.features.files import file_sha256
from mmrec.features.store_writer import FeatureStoreWriter
from mmrec.stages.extract import extract
from mmrec.stages.extraction.merge import merge
from mmrec.stages.extraction.ray_notes import Notes
from mmrec.stages.extraction.ray_worker import ATTEMPTS, Outcome, ShardActor


def given(shop: Path) -> tuple[CatalogConfig, ExtractConfig]:
    catalog = CatalogConfig(items=str(shop / "items.csv"), image="image")
    return catalog, ExtractConfig(text_views={"title": "{title}"}, shard_rows=1, max_failures=1.0)


def call(actor: ShardActor, *shards: int) -> list[Outcome]:
    return [Outcome.from_json(text) for text in actor({"shard": list(shards)})["outcome"]]


@pytest.fixture
def notes(tmp_path) -> Notes:
    (tmp_path / "store").mkdir()
    return Notes(tmp_path / "store")


def test_what_actors_make_is_the_store_of_one_process(encoder, shop, notes) -> None:
    (shop / "1.png").write_text("not a picture")
    extract(*given(shop), shop / "whole")
    first, second = (ShardActor(*given(shop), None, notes) for _ in range(2))
    assert [(outcome.items, outcome.encoded) for outcome in call(first, 3, 0, 4)] == [(1, 1)] * 3
    encoder.images = 0
    # Who is given a shard that a dead actor had finished learns of it, though it came after his start.
    assert [(outcome.items, outcome.encoded) for outcome in call(second, 1, 2, 3)] == [(1, 1), (1, 1), (1, 0)]
    assert encoder.images == 1  # of shard 2: shard 1's picture is none
    assert not [path for path in notes.folder.iterdir() if path.name.startswith(".")]
    merge(*given(shop), notes.folder)
    assert checksums(notes.folder) == checksums(shop / "whole")


def checksums(store: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in store.iterdir() if path.is_file()}


def test_after_a_signal_no_shard_is_begun(encoder, shop, notes) -> None:
    actor = ShardActor(*given(shop), None, notes)
    call(actor, 0)
    notes.stop()
    assert call(actor, 1, 2) == [Outcome(), Outcome()]
    notes.clear()
    assert [path.name for path in notes.folder.iterdir()] == ["part-00000.parquet"]


def test_errors_that_a_user_can_mend_arrive_as_they_were(encoder, shop, notes, monkeypatch) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left", "part-00000.parquet")

    monkeypatch.setattr(FeatureStoreWriter, "write_shard", full)
    outcomes = call(ShardActor(*given(shop), None, notes), 0, 1)
    for outcome in outcomes:  # the first one is the last
        with pytest.raises(OSError, match=r"No space left: 'part-00000\.parquet'") as caught:
            outcome.raise_error()
        assert caught.value.errno == errno.ENOSPC
    (shop / "items.csv").unlink()
    with pytest.raises(InputError, match=r"items\.csv"):
        call(ShardActor(*given(shop), None, notes), 0)[0].raise_error()
    Outcome().raise_error()


def test_a_shard_that_kills_whoever_takes_it_up_ends_the_job(encoder, shop, notes) -> None:
    for died in range(ATTEMPTS):
        assert notes.begin(2) == died
    made, deadly = call(ShardActor(*given(shop), None, notes), 1, 2)
    made.raise_error()
    with pytest.raises(InputError, match=r"10 processes in a row have died over shard 2, .*memory"):
        deadly.raise_error()
