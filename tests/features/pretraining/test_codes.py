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


@pytest.mark.parametrize("content", ["nothing", "an archive", "half an archive"])
def test_a_file_that_is_no_matrix_is_refused(tmp_path, content) -> None:
    np.savez(tmp_path / "codes.npz", np.ones((3, 2), int))
    archive = (tmp_path / "codes.npz").read_bytes()
    file = tmp_path / "codes.npy"
    file.write_bytes({"nothing": b"", "an archive": archive, "half an archive": archive[:20]}[content])
    with pytest.raises(InputError, match=r"codes\.npy: "):
        read_codes(file, IDS, 2, 4)


def test_a_code_beyond_any_is_not_taken_for_none(tmp_path) -> None:
    np.save(tmp_path / "codes.npy", np.full((3, 2), 2**63 + 5, np.uint64))
    with pytest.raises(InputError, match="holds the code 9223372036854775813"):
        read_codes(tmp_path / "codes.npy", IDS, 2, 4)


def test_a_table_of_arrays_is_one_of_lists(tmp_path) -> None:
    table = pl.DataFrame({"item_id": ["a", "b", "c"], "codes": np.array([[1, 2], [0, 0], [3, 0]])})
    table.write_parquet(tmp_path / "codes.parquet")
    assert read_codes(tmp_path / "codes.parquet", IDS, 2, 4)[0].tolist() == [[1, 2], [0, 0], [3, 0]]


@pytest.mark.parametrize(
    ("ids", "codes", "message"),
    [
        (["a", "b"], [1, 2], "'codes' holds Int64; expected lists"),
        (["a", "b"], [["x", "y"]] * 2, r"'codes' holds List\(String\)"),
        (["a", "b"], [[1.5, 2.0]] * 2, r"'codes' holds List\(Float64\)"),
        (["a", "b"], [[1, None], [1, 2]], "with gaps"),
        (["a", "b"], [[1], [1, 2]], "lists of 1, 2 codes"),
        (["a", "a"], [[1, 2], [3, 4]], "several rows for item 'a'"),
        ([1, 2], [[1, 2]] * 2, "codes of none of the 3 items; .*such as 'a'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, ids, codes, message) -> None:
    pl.DataFrame({"item_id": ids, "codes": codes}).write_parquet(tmp_path / "codes.parquet")
    with pytest.raises(InputError, match=message):
        read_codes(tmp_path / "codes.parquet", IDS, 2, 9)


def test_names_are_no_items_of_a_catalogue_of_numbers(tmp_path) -> None:
    pl.DataFrame({"item_id": ["a"], "codes": [[1, 2]]}).write_parquet(tmp_path / "codes.parquet")
    with pytest.raises(InputError, match="codes of none of the 3 items"):
        read_codes(tmp_path / "codes.parquet", pl.Series("item_id", [1, 2, 3]), 2, 9)
