import numpy as np
import polars as pl

from mmrec.features.store import FeatureStore, FeatureStoreWriter, ShardRows
from mmrec.stages.modality_groups import modality_groups

IDS = pl.Series("item_id", ["a", "b", "c", "d"])


def stored(folder, **present: list[bool]) -> FeatureStore:
    writer = FeatureStoreWriter(folder, {})
    rows = np.ones((4, 2), np.float32)
    vectors = {name.replace("_", "."): (rows, np.array(mask)) for name, mask in present.items()}
    writer.write_shard(0, ShardRows(IDS, ["x"] * 4, vectors, {}))
    writer.commit({"request": {}})
    return FeatureStore(folder)


def test_items_are_grouped_by_what_they_have_of_any_view(tmp_path) -> None:
    store = stored(
        tmp_path,
        image_full=[True, False, False, False],
        text_title=[True, False, True, False],
        text_tags=[False, True, False, False],
        joint=[True, True, True, True],
    )
    groups = modality_groups(store, pl.Series("item_id", ["d", "a", "b"]))["modality"]
    assert [groups.names[group] for group in groups.of_item] == ["nothing", "image + text", "text"]
    assert groups.names[0] == "image + text"


def test_there_are_no_groups_where_all_items_have_the_same(tmp_path) -> None:
    everywhere = [True] * 4
    assert modality_groups(stored(tmp_path, image_full=everywhere, text_title=everywhere), IDS) == {}
    assert modality_groups(None, IDS) == {}
