from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl
import pytest

from mmrec.features.errors import InputError
from mmrec.stages.exchange import toolbox
from mmrec.stages.exchange.folder import ImportFolder
from mmrec.stages.exchange.run_data import RunData
from mmrec.stages.exchange.source import Source

INTER = (
    "userID\titemID\trating\ttimestamp\tx_label\n"
    "0\t0\t5.0\t1370649600\t0\n0\t2\t4.0\t1390000000\t2\n1\t1\t3.0\t1380000000\t1\n"
)


def peer(folder: Path) -> Path:
    """Three items, of which the second has no picture, as the toolbox's preprocessing leaves them."""
    folder.mkdir()
    (folder / "baby.inter").write_text(INTER)
    (folder / "i_id_mapping.csv").write_text("asin\titemID\nB000A\t0\nB000B\t1\n0007\t2\n")
    (folder / "u_id_mapping.csv").write_text("user_id\tuserID\nA1X\t0\nA2Y\t1\n")
    np.save(folder / "image_feat.npy", np.arange(12, dtype=np.float64).reshape(3, 4))
    np.save(folder / "text_feat.npy", np.ones((3, 2), np.float32))
    (folder / "missed_img_itemIDs.csv").write_text("itemID\n1\n")
    np.save(folder / "user_graph_dict.npy", np.array([{}]), allow_pickle=True)  # is not read
    return folder


def test_the_original_ids_come_back_and_fillers_are_absent(tmp_path) -> None:
    target = ImportFolder(tmp_path)
    toolbox.read(Source(peer(tmp_path / "baby")), target)
    assert pl.read_parquet(tmp_path / "interactions.parquet").rows() == [
        ("A1X", "B000A", 5.0, 1370649600, "train"),
        ("A1X", "0007", 4.0, 1390000000, "test"),
        ("A2Y", "B000B", 3.0, 1380000000, "validation"),
    ]
    assert pl.read_parquet(tmp_path / "items.parquet")["item_id"].to_list() == ["B000A", "B000B", "0007"]
    image = np.load(tmp_path / "features" / "image.npy")
    assert image.dtype == np.float64 and np.isnan(image[1]).all() and image[2].tolist() == [8, 9, 10, 11]
    assert target.views == {"image": 4, "text": 2}
    assert target.sections()["interactions"] == {"path": "interactions.parquet", "split": "column"}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("baby.inter", INTER.replace("\t1\t3.0", "\tB000B\t3.0"), "itemID holds 'B000B'; expected numbers"),
        ("baby.inter", INTER.replace("\t2\n", "\t7\n"), "x_label holds '7'"),
        ("baby.inter", INTER.replace("itemID", "item_id"), "no column 'itemID'.*did you mean 'item_id'"),
        ("i_id_mapping.csv", "asin\titemID\nB000A\t0\n0007\t2\n", "no original id for number 1"),
        ("other.inter", INTER, r"2 logs: baby, other\. Choose one with --name"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, file: str, content: str, message: str) -> None:
    folder = peer(tmp_path / "baby")
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=message):
        toolbox.read(Source(folder), ImportFolder(tmp_path))


def test_fewer_rows_than_items_are_refused(tmp_path) -> None:
    folder = peer(tmp_path / "baby")
    np.save(folder / "text_feat.npy", np.ones((2, 2), np.float32))
    with pytest.raises(InputError, match=r"text_feat\.npy: 2 rows for 3 items"):
        toolbox.read(Source(folder), ImportFolder(tmp_path))


class FewViews:
    """A feature store of four items, of which the last has no picture."""

    item_ids = pl.Series("item_id", ["a", "b", "c", "d"])
    views = ("visual", "text.title")
    manifest = MappingProxyType({"space": {}})

    def dim(self, view: str) -> int:
        return 2

    def read(self, view: str, item_ids: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        rows = [self.item_ids.to_list().index(item) for item in item_ids]
        present = np.array([True, True, True, view != "visual"])
        return np.array([[1, 2], [3, 4], [5, 9], [0, 0]], np.float16)[rows], present[rows]


def test_an_item_that_nobody_touched_is_not_the_last_and_no_row_is_nan(tmp_path) -> None:
    """The toolbox counts items by the largest number in its log, and trains on every row."""
    log = {"user_id": [8, 8], "item_id": ["a", "c"], "split": ["train", "test"]}
    run = RunData(tmp_path, None, None, FewViews())  # pyright: ignore[reportArgumentType]
    run.__dict__["log"] = pl.DataFrame(log)
    run.__dict__["dataset"] = type("Dataset", (), {"user_ids": pl.Series([8])})
    toolbox.write(run, tmp_path, "shop", {})
    mapping = pl.read_csv(tmp_path / "i_id_mapping.csv", separator="\t")
    assert mapping["item_id"].to_list() == ["d", "a", "b", "c"]
    assert (tmp_path / "shop.inter").read_text() == "userID\titemID\tx_label\n0\t1\t0\n0\t3\t2\n"
    image = np.load(tmp_path / "image_feat.npy")
    assert image.dtype == np.float32 and image.tolist() == [[3, 5], [1, 2], [3, 4], [5, 9]]
    assert (tmp_path / "missed_img_itemIDs.csv").read_text() == "itemID\n0\n"
    assert np.load(tmp_path / "text_feat.npy").shape == (4, 2)
