import numpy as np
import polars as pl
import pytest

from mmrec.features.errors import InputError
from mmrec.features.pretraining.codes import read_codes

IDS = pl.Series("item_id", ["a", "b", "c"])


def test_a_matrix_is_in_the_order_of_the_items_and_negative_means_none(tmp_path) -> None:
    np.save(tmp_path / "codes.npy", np.array([[1, 2], [-1, -1], [3, 0]], np.int16))
    codes, present = read_codes(tmp_path / "codes.npy", IDS, 2, 4)
    assert codes.tolist() == [[1, 2], [0, 0], [3, 0]] and present.tolist() == [True, False, True]


def test_a_table_goes_by_item_id(tmp_path) -> None:
    table = pl.DataFrame({"item_id": ["c", "x", "a"], "codes": [[3, 0], [9, 9], [1, 2]]})
    table.write_parquet(tmp_path / "codes.parquet")
    codes, present = read_codes(tmp_path / "codes.parquet", IDS, 2, 4)
    assert codes.tolist() == [[1, 2], [0, 0], [3, 0]] and present.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((3, 5), int), r"shape \(3, 5\); expected .*\(3, 2\)"),
        (np.full((3, 2), 4), "holds the code 4, but align.visual_codes is 4"),
        (np.zeros((3, 2)), "holds float64; expected whole numbers"),
    ],
)
def test_codes_that_do_not_fit_are_refused(tmp_path, matrix, message) -> None:
    np.save(tmp_path / "codes.npy", matrix)
    with pytest.raises(InputError, match=message):
        read_codes(tmp_path / "codes.npy", IDS, 2, 4)
