import tracemalloc
from pathlib import Path

import polars as pl
import pytest

from mmrec.features.catalog import folder_of, read_catalog
from mmrec.features.config import CatalogConfig
from mmrec.features.errors import InputError


def catalog_file(folder: Path, table: pl.DataFrame) -> str:
    table.write_parquet(folder / "items.parquet")
    return str(folder / "items.parquet")


def test_a_csv_catalogue_keeps_its_order_its_ids_and_its_text(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("id,title,price,image\n9,Red,1.50,a.jpg\n4,Blue,2, \n7,,,\n")
    catalog = read_catalog(CatalogConfig(items=str(tmp_path / "items.csv"), item_id="id", image="image"))
    assert catalog.item_ids.to_list() == [9, 4, 7]
    assert catalog.fields.rows() == [("Red", "1.50"), ("Blue", "2"), (None, None)]
    assert list(catalog.images) == [("a.jpg",), (), ()]
    assert catalog.image_root == str(tmp_path)


def test_slices_hold_the_same_rows_in_every_part(tmp_path: Path) -> None:
    table = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"], "image": ["1", "2", "3"]})
    catalog = read_catalog(CatalogConfig(items=catalog_file(tmp_path, table), image="image"))
    part = catalog.slice(1, 5)
    assert len(part) == 2
    assert (part.item_ids.to_list(), part.fields["title"].to_list()) == (["b", "c"], ["B", "C"])
    assert list(part.images) == [("2",), ("3",)]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pl.Series([["a", None, "b"], [], None]), [("a", "b"), (), ()]),
        (pl.Series([b"\x89PNG", None, b""]), [(b"\x89PNG",), (), (b"",)]),
        (pl.Series([[b"1", b"2"], None, []]), [(b"1", b"2"), (), ()]),
        (
            pl.Series([{"bytes": b"1", "path": "x"}, {"bytes": None, "path": "x"}, None]),
            [(b"1",), ("x",), ()],
        ),
        (pl.Series([["a", "b"], None, ["", " "]], dtype=pl.Array(pl.String, 2)), [("a", "b"), (), ()]),
        (pl.Series([None, None, None]), [(), (), ()]),
    ],
)
def test_image_columns_of_every_kind(tmp_path: Path, column: pl.Series, expected: list[object]) -> None:
    table = pl.DataFrame({"item_id": [1, 2, 3], "image": column})
    images = read_catalog(CatalogConfig(items=catalog_file(tmp_path, table), image="image")).images
    assert list(images) == [images[row] for row in range(3)] == expected
    assert any(images) == any(expected)
    assert list(images[1:]) == expected[1:]


def test_whole_images_become_python_objects_one_at_a_time(tmp_path: Path) -> None:
    table = pl.DataFrame({"item_id": range(64), "image": [bytes([row]) * 2**18 for row in range(64)]})
    config = CatalogConfig(items=catalog_file(tmp_path, table), image="image")
    tracemalloc.start()
    catalog = read_catalog(config)
    assert any(catalog.images)
    sizes = [sum(map(len, references)) for references in catalog.slice(8, 40).images]
    most = tracemalloc.get_traced_memory()[1]  # of Python's objects, without those of polars
    tracemalloc.stop()
    assert sizes == [2**18] * 32
    assert most < 8 * 2**18


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        (pl.Series([1, 2], dtype=pl.Int16), pl.Int64),
        (pl.Series([1, 2], dtype=pl.UInt64), pl.Int64),
        (pl.Series([1, 2**63], dtype=pl.UInt64), pl.UInt64),
        (pl.Series(["1", "2"]), pl.String),
        (pl.Series(["1", "2"], dtype=pl.Categorical), pl.String),
    ],
)
def test_ids_stay_integers_or_strings(tmp_path: Path, ids: pl.Series, dtype: pl.DataType) -> None:
    catalog = read_catalog(CatalogConfig(items=catalog_file(tmp_path, pl.DataFrame({"item_id": ids}))))
    assert catalog.item_ids.dtype == dtype
    assert catalog.item_ids.to_list() == ids.to_list()
    assert list(catalog.images) == [(), ()]


def test_all_bad_ids_are_named_at_once(tmp_path: Path) -> None:
    table = pl.DataFrame({"item_id": ["a", "b", None, "a", " ", "c", "b", "b"]})
    with pytest.raises(InputError) as caught:
        read_catalog(CatalogConfig(items=catalog_file(tmp_path, table)))
    assert "2 of 8 rows have no id (first: rows 3, 5)" in str(caught.value)
    assert "2 ids occur more than once (first: 'a', 'b')" in str(caught.value)


def test_wrong_columns_and_types_are_input_errors(tmp_path: Path) -> None:
    items = catalog_file(tmp_path, pl.DataFrame({"item_id": [1.5], "pic": [3]}))
    with pytest.raises(InputError, match=r"holds Float64; expected integers or strings"):
        read_catalog(CatalogConfig(items=items))
    with pytest.raises(InputError, match=r"image column 'pic' holds Int64"):
        read_catalog(CatalogConfig(items=items, image="pic"))
    with pytest.raises(InputError, match=r"no columns 'id', 'picture'"):
        read_catalog(CatalogConfig(items=items, item_id="id", image="picture"))


def test_relative_images_start_beside_the_catalogue(tmp_path: Path) -> None:
    assert folder_of("data/items.csv") == "data"
    assert folder_of("data/parts/*.csv") == "data/parts"
    assert folder_of(str(tmp_path)) == str(tmp_path)
    assert folder_of("s3://bucket/shop/items.csv") == "s3://bucket/shop"
    assert folder_of("items.csv") == "."
    named_like_a_glob = tmp_path / "shop [v2]" / "s*"
    named_like_a_glob.mkdir(parents=True)
    for name in ("items[1].csv", "part-*.csv"):
        assert folder_of(str(named_like_a_glob / name)) == str(named_like_a_glob)
    assert folder_of(str(named_like_a_glob / "*" / "items.csv")) == str(named_like_a_glob)
