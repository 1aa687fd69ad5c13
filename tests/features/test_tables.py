import gzip
from pathlib import Path

import fsspec
import polars as pl
import pytest

from mmrec.features.errors import InputError
from mmrec.features.tables import read_table, write_parquet

ROWS = pl.DataFrame({"item_id": [3, 1], "title": ["Red, round", None], "price": [1.5, 2.0]})


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.ndjson", "t.parquet", "t.CSV", "t.csv.gz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    kind = name.split(".")[1].lower()
    if kind == "parquet":
        ROWS.write_parquet(path)
    elif kind in ("jsonl", "ndjson"):
        ROWS.write_ndjson(path)
    else:
        text = ROWS.write_csv(separator="\t" if kind == "tsv" else ",").encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert read_table(str(path)).equals(ROWS)
    assert read_table(str(path), ["price", "item_id"]).equals(ROWS.select("price", "item_id"))


def test_a_written_table_reads_back_with_its_types(tmp_path: Path) -> None:
    table = ROWS.with_columns(score=pl.Series([0.5, None], dtype=pl.Float32))
    write_parquet(tmp_path / "t.parquet", table)
    assert read_table(str(tmp_path / "t.parquet")).equals(table)
    assert pl.read_parquet(tmp_path / "t.parquet").schema == table.schema


def test_a_folder_and_a_glob_are_read_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("id\n2\n")
    (tmp_path / "a.csv").write_text("id\n10\n")
    (tmp_path / ".c.csv").write_text("id\n3\n")
    (tmp_path / "README.md").write_text("x")
    assert read_table(str(tmp_path))["id"].to_list() == [10, 2]
    assert read_table(str(tmp_path / "*.csv"))["id"].to_list() == [10, 2]


@pytest.mark.parametrize("name", ["t[1].csv", "t*.jsonl", "t?.parquet", "t[1].csv.gz"])
def test_a_path_that_exists_is_no_glob(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "shop [v2] *?"
    folder.mkdir()
    if name.endswith("parquet"):
        write_parquet(folder / name, ROWS)
    elif name.endswith("jsonl"):
        (folder / name).write_text(ROWS.write_ndjson())
    else:
        text = ROWS.write_csv().encode()
        (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    for source in (folder / name, folder, folder / "t*"):
        assert read_table(str(source)).equals(ROWS)
        assert read_table(str(source), ["price", "item_id"]).equals(ROWS.select("price", "item_id"))
    with pytest.raises(FileNotFoundError):
        read_table(str(folder / "u.csv"))


def test_a_uri_is_read_through_fsspec() -> None:
    with fsspec.open("memory://tables/t.csv", "w") as file:
        file.write("id\n5\n")  # pyright: ignore
    assert read_table("memory://tables/t.csv")["id"].to_list() == [5]
    assert read_table("memory://tables/*.csv")["id"].to_list() == [5]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["7", "-12"], [7, -12]),
        (["007", "008"], ["007", "008"]),  # leading zeros carry meaning
        (["7", "B2"], ["7", "B2"]),
        (["1e5", "2e7"], ["1e5", "2e7"]),  # hexadecimal ids, not 100000.0
        (["0.5", "-1", "1e-05", ".5"], [0.5, -1.0, 1e-05, 0.5]),
        (["99999999999999999999", "1"], ["99999999999999999999", "1"]),  # past 64 bits
        (["nan", "1.5"], ["nan", "1.5"]),
    ],
)
def test_csv_columns_become_numbers_only_without_loss(
    tmp_path: Path, values: list[str], expected: list[object]
) -> None:
    (tmp_path / "a.csv").write_text(f"id\n{values[0]}\n")
    (tmp_path / "b.csv").write_text("id\n" + "\n".join(values[1:]) + "\n")
    assert read_table(str(tmp_path))["id"].to_list() == expected


def test_csv_columns_that_are_not_typed_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,price\n7,1.50\n")
    assert read_table(str(tmp_path / "a.csv"), typed=["id"]).rows() == [(7, "1.50")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbfid,title\r\n007,a\r\n"),  # as spreadsheets save it
        ("a.csv", b"id;title\n007;a\n"),
        ("a.csv", b"id\ttitle\n007\ta\n"),
        ("a.csv", b'"id"|"title"\n"007"|"a"\n'),
        ("a.tsv", b"id,title\n007,a\n"),
        ("a.csv", b"\n\nid,title\n\n007,a\n,\n\n"),
        ("a.CSV.GZ", gzip.compress(b"id,title\n") + gzip.compress(b"007,a\n")),
        ("a.jsonl", b'\xef\xbb\xbf{"id": "007", "title": "a"}\n\n'),
    ],
)
def test_tables_as_people_have_them(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_table(str(tmp_path / name)).to_dicts() == [{"id": "007", "title": "a"}]


def test_quotes_separators_and_line_ends_within_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,"a ""b"", c"\n1,"say ""hi"", or\nnot"\n2,5" disk\n')
    assert read_table(str(tmp_path / "a.csv")).to_dicts() == [
        {"id": 1, 'a "b", c': 'say "hi", or\nnot'},
        {"id": 2, 'a "b", c': '5" disk'},
    ]


def test_columns_without_a_name_may_repeat_and_duplicated_may_be_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,is_duplicated_0,,\n7,x,,\n")
    assert read_table(str(tmp_path / "a.csv"), ["is_duplicated_0", "id"]).rows() == [("x", 7)]


def test_a_wrong_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Item_ID,title\n1,x\n")
    with pytest.raises(
        InputError, match=r"no column 'item_id' \(did you mean 'Item_ID'\?\); found 'Item_ID', 'title'"
    ):
        read_table(str(tmp_path / "a.csv"), ["item_id"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"id,title\n", "no rows"),
        ("a.csv", b"id,title\n1,a,b\n", "line 2: 3 fields, but the header names 2"),
        ("a.csv", b"id\n\xff\xfe\n", "line 2: byte 0xff is not UTF-8"),
        ("a.csv", b"id,title,id\n1,a,2\n", "more than one column 'id';"),
        ("a.csv", b'id,title\n1,"a" b\n', "put fields that hold quotes into quotes"),
        ("a.csv", b"id,title\r1,a\r", "lines end in CR alone"),
        ("a.csv", "id,title\n1,a\n".encode("utf-16"), "UTF-16"),
        ("a.csv", b"PK\x03\x04", "an Excel workbook"),
        ("a.csv", b"PAR1", "Parquet; give it a name"),
        ("a.csv.gz", gzip.compress(b"id\n1\n" * 1000)[:40], "not a readable csv table"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00" + b"\xff" * 50, "not a readable csv table"),
        ("a.jsonl", b'{"id": 1}\n{"id": 2\n', "line 2: expected one JSON object per line"),
        ("a.jsonl", b'[{"id": 1}]', "line 1: expected one JSON object per line, found list"),
        ("a.jsonl", '{"id": "é"}\n'.encode("latin-1"), "line 1: byte 0xe9 is not UTF-8"),
        ("a.jsonl", b'{"id": ' + b"[" * 900 + b"]" * 900 + b"}\n", "nested more than 64 levels"),
        ("a.jsonl", b'{"id": ' + b"[" * 90_000 + b"]" * 90_000 + b"}\n", "nested far too deeply"),
        ("a.jsonl", b"", "not a readable jsonl table"),
        ("a.jsonl", b"{nonsense\n", "not a readable jsonl table"),
        ("a.parquet", b"not parquet", "not a readable parquet table"),
        ("a.csv.gz", b"not gzip", "not a readable csv table"),
        ("a.xlsx", b"PK", "unknown format '.xlsx'"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_table(str(tmp_path / name))
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_sources_mixed_formats_and_unknown_protocols(tmp_path: Path) -> None:
    for source in ("no.csv", "*.csv", "."):
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_table(str(tmp_path / source))
    (tmp_path / "a.csv").write_text("id\n1\n")
    (tmp_path / "b.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(InputError, match="mixes csv and jsonl"):
        read_table(str(tmp_path))
    with pytest.raises(InputError, match="nowhere"):
        read_table("nowhere://a.csv")
