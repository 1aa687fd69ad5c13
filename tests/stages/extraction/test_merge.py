"""Parts of an extraction that know nothing of each other, and the store that they become."""

from pathlib import Path

import pytest

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.encoders import registry
from mmrec.features.errors import InputError
from mmrec.features.files import file_sha256
from mmrec.features.store import FeatureStore
from mmrec.features.store_writer import FeatureStoreWriter
from mmrec.stages import encoding
from mmrec.stages.extract import extract
from mmrec.stages.extraction.merge import merge
from mmrec.stages.extraction.parts import Part


def given(shop: Path, **settings) -> tuple[CatalogConfig, ExtractConfig]:
    config = ExtractConfig(**{"text_views": {"title": "{title}"}, "shard_rows": 1, **settings})
    return CatalogConfig(items=str(shop / "items.csv"), image="image"), config


def part(shop: Path, store: Path, name: str, **settings):
    return extract(*given(shop, **settings), store, Part.parse(name))


def checksums(store: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in store.iterdir() if path.is_file()}


def test_merged_parts_are_the_store_that_one_process_makes(encoder, shop, tmp_path, monkeypatch) -> None:
    (shop / "1.png").write_text("not a picture")
    extract(*given(shop), tmp_path / "whole")
    for name in ("2/3", "0/3", "1/3"):
        report = part(shop, tmp_path / "store", name)
        assert report.part == name and report.encoded == report.items == report.shards
    assert not (tmp_path / "store" / "manifest.json").exists()
    monkeypatch.setattr(encoding, "image_reader", lambda *_: pytest.fail("images are read again"))
    report = merge(*given(shop), tmp_path / "store")
    assert checksums(tmp_path / "store") == checksums(tmp_path / "whole")
    assert (report.items, report.failed, report.reasons) == (5, 1, {"not_an_image": 1})
    monkeypatch.setattr(registry, "load_encoder", lambda *_: pytest.fail("the encoder was loaded"))
    assert merge(*given(shop), tmp_path / "store").up_to_date


def test_parts_of_a_changed_catalogue_take_over_what_is_known(encoder, shop, tmp_path) -> None:
    for store in ("store", "whole"):
        extract(*given(shop), tmp_path / store)
    items = shop / "items.csv"
    items.write_text(items.read_text().replace("b,1.png,red", "b,1.png,green"))
    assert [part(shop, tmp_path / "store", name).encoded for name in ("0/2", "1/2")] == [0, 1]
    merge(*given(shop), tmp_path / "store")
    extract(*given(shop), tmp_path / "whole")
    assert checksums(tmp_path / "store") == checksums(tmp_path / "whole")


def test_a_merge_before_all_shards_are_there_names_those_that_lack(encoder, shop, tmp_path) -> None:
    with pytest.raises(InputError, match=r"5 of 5 shards are missing \(not made yet: 0-4\)"):
        merge(*given(shop), tmp_path / "store")
    part(shop, tmp_path / "store", "1/2")
    (tmp_path / "store" / "part-00003.parquet").write_bytes(b"PAR1")
    part(shop, tmp_path / "store", "4/5", text_views={"title": "A {title}."})
    items = shop / "items.csv"
    before = items.read_text()
    items.write_text(before.replace("b,1.png", "bb,1.png"))
    with pytest.raises(InputError, match=r"K/5` .* makes shard K") as caught:
        merge(*given(shop), tmp_path / "store")
    for why in ("not made yet: 0,2", "of other items: 1", "damaged: 3", "of other settings: 4"):
        assert why in str(caught.value)
    items.write_text(before)
    for shard in (0, 2, 3, 4):
        part(shop, tmp_path / "store", f"{shard}/5")
    assert merge(*given(shop), tmp_path / "store").items == 5


def test_what_a_part_made_last_is_what_counts(encoder, shop, tmp_path) -> None:
    """A shard that was made of a picture's second version and never merged, then of its first one again."""
    extract(*given(shop), tmp_path / "store")
    picture = (shop / "0.png").read_bytes()
    (shop / "0.png").write_bytes((shop / "3.png").read_bytes())
    part(shop, tmp_path / "store", "0/5")
    (shop / "0.png").write_bytes(picture)
    part(shop, tmp_path / "store", "0/5")
    assert merge(*given(shop), tmp_path / "store").up_to_date
    assert len(list((tmp_path / "store").glob("part-00000*"))) == 1


def test_a_merge_killed_before_it_cleaned_up_does_not_bring_back_what_it_replaced(
    encoder, shop, tmp_path, monkeypatch
) -> None:
    extract(*given(shop), tmp_path / "store")
    (shop / "0.png").write_bytes((shop / "3.png").read_bytes())
    part(shop, tmp_path / "store", "0/5")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FeatureStoreWriter, "_remove_unreferenced", interrupt)
        merge(*given(shop), tmp_path / "store")
    committed = FeatureStore(tmp_path / "store").content_hashes
    assert merge(*given(shop), tmp_path / "store").up_to_date
    assert FeatureStore(tmp_path / "store").content_hashes.equals(committed)
    assert len(list((tmp_path / "store").glob("part-00000*"))) == 1


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def test_parts_leave_what_others_are_writing_alone(encoder, shop, tmp_path) -> None:
    (tmp_path / "store").mkdir()
    unfinished = tmp_path / "store" / ".part-00001.parquet.1234.tmp"
    unfinished.touch()
    part(shop, tmp_path / "store", "0/2")
    assert unfinished.exists()
    part(shop, tmp_path / "store", "1/2")
    merge(*given(shop), tmp_path / "store")
    assert not unfinished.exists() and len(FeatureStore(tmp_path / "store")) == 5
