"""Data sets as they are published, in small: MovieLens, H&M, Amazon Reviews 2023; and tables of vectors."""

import gzip
import json
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmrec.features.errors import InputError
from mmrec.stages.exchange import amazon, arrow, hm, movielens, streams
from mmrec.stages.exchange.folder import ImportFolder
from mmrec.stages.exchange.source import Source

RATINGS = [(1, 1193, 5, 978300760), (1, 661, 3, 978302109)]
U_ITEM = (
    "1193|Misérables, Les (1995)|01-Jan-1995||http://x/exact?y|0|1|1\n661|Kolya (1996)|24-Jan-1997|||0|0|0\n"
)
LAYOUTS = {
    "100K": {
        "u.data": "1\t1193\t5\t978300760\n1\t661\t3\t978302109\n",
        "u.item": U_ITEM,
        "u.genre": "unknown|0\nDrama|1\nMusical|2\n\n",
    },
    "1M": {
        "ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n",
        "movies.dat": "1193::Misérables, Les (1995)::Drama|Musical\n661::Kolya (1996)::\n",
    },
    "25M": {
        "ratings.csv": "userId,movieId,rating,timestamp\n1,1193,5.0,978300760\n1,661,3.0,978302109\n",
        "movies.csv": 'movieId,title,genres\n1193,"Misérables, Les (1995)",Drama|Musical\n'
        "661,Kolya (1996),(no genres listed)\n",
    },
}


def folder_of(folder: Path, files: dict[str, str], encoding: str = "utf-8") -> Source:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode(encoding))
    return Source(folder)


@pytest.mark.parametrize(("layout", "encoding"), [("100K", "latin-1"), ("1M", "latin-1"), ("25M", "utf-8")])
def test_movielens_is_the_same_in_every_layout(tmp_path, layout: str, encoding: str) -> None:
    source = folder_of(tmp_path / "ml", {**LAYOUTS[layout], "posters/661.jpg": ""}, encoding)
    target = ImportFolder(tmp_path)
    movielens.read(source, target)
    assert pl.read_parquet(tmp_path / "interactions.parquet").rows() == RATINGS
    items = pl.read_parquet(tmp_path / "items.parquet")
    assert items.select("item_id", "title", "year", "image").rows() == [
        (1193, "Misérables, Les (1995)", 1995, None),
        (661, "Kolya (1996)", 1996, "posters/661.jpg"),
    ]
    assert (items["genres"].fill_null("")).to_list() == ["Drama, Musical", ""]
    assert target.sections()["catalog"]["image"] == "image"


def test_hm_keeps_zeros_and_quotes_and_finds_pictures(tmp_path) -> None:
    source = folder_of(
        tmp_path / "hm",
        {
            "transactions_train.csv": "t_dat,customer_id,article_id,price,sales_channel_id\n"
            "2018-09-20,000058a1,0663713001,0.05083,2\n2018-09-21,00007d2d,0505221004,0.01523,2\n",
            "articles.csv": "article_id,product_code,prod_name,detail_desc\n"
            '0663713001,0663713,Atlanta Push Body,"Lace, with ""wings"" &amp; more."\n'
            "0108775015,0108775,Strap top,\n",
            "images/066/0663713001.jpg": "",
        },
    )
    target = ImportFolder(tmp_path)
    hm.read(source, target)
    log = pl.read_parquet(tmp_path / "interactions.parquet")
    assert log.rows()[0] == ("000058a1", "0663713001", date(2018, 9, 20))
    items = pl.read_parquet(tmp_path / "items.parquet")
    assert items["item_id"].to_list() == [
        "0663713001",
        "0108775015",
        "0505221004",
    ]  # the last: of the log alone
    assert items["image"].to_list() == ["images/066/0663713001.jpg", None, None]
    assert items["detail_desc"][0] == 'Lace, with "wings" &amp; more.'
    assert target.sections()["catalog"]["image_root"] == str(source.folder)


REVIEW = {
    "rating": 5.0,
    "title": "Great",
    "text": "x",
    "images": [],
    "asin": "B1",
    "parent_asin": "B00YQ6X8EO",
}
META = {
    "main_category": "All Beauty", "title": "Lotion &amp; <b>more</b>", "average_rating": 4.3, "price": None,
    "features": ["soft", "5 oz"], "description": [], "store": None, "categories": [], "details": {"UPC": "1"},
    "images": [{"thumb": "https://x/t.jpg", "large": "https://x/l.jpg", "hi_res": None, "variant": "MAIN"}],
}  # fmt: skip


def beauty(folder: Path, *more: str) -> Source:
    reviews = [{**REVIEW, "user_id": f"U{n}", "timestamp": 1588687728923 + n} for n in range(5)]
    meta = [
        {**META, "parent_asin": "B00YQ6X8EO"},
        {"parent_asin": "0007", "price": "from 3.99", "images": []},
    ]
    folder.mkdir()
    lines = [*map(json.dumps, reviews), *more]
    (folder / "All_Beauty.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "meta_All_Beauty.jsonl").write_text("\n".join(map(json.dumps, meta)) + "\n")
    return Source(folder)


def test_amazon_reviews_are_read_in_pieces_and_texts_left_as_they_are(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(streams, "_CHUNK", 200)
    target = ImportFolder(tmp_path)
    amazon.read(beauty(tmp_path / "amazon"), target)
    log = pl.read_parquet(tmp_path / "interactions.parquet")
    assert log.rows()[4] == ("U4", "B00YQ6X8EO", 5.0, 1588687728927) and len(log) == 5
    items = pl.read_parquet(tmp_path / "items.parquet")
    assert items["title"].to_list() == ["Lotion &amp; <b>more</b>", None]
    assert items["image"].to_list() == [["https://x/l.jpg"], []]
    assert items["features"][0].to_list() == ["soft", "5 oz"]
    assert target.sections()["extract"]["text_views"]["all"].startswith("{title}. {store}")


@pytest.mark.parametrize(
    ("line", "message"),
    [("[1]", "line 6: expected one JSON object"), ('{"user_id": ', "line 6: expected one")],
)
def test_a_bad_line_is_named(tmp_path, monkeypatch, line: str, message: str) -> None:
    monkeypatch.setattr(streams, "_CHUNK", 200)
    with pytest.raises(InputError, match=message):
        amazon.read(beauty(tmp_path / "amazon", line), ImportFolder(tmp_path))


def test_a_value_that_is_no_number_is_named(tmp_path) -> None:
    files = {**LAYOUTS["25M"], "ratings.csv": "userId,movieId,rating,timestamp\n1,1193,good,9\n"}
    with pytest.raises(InputError, match=r"ratings\.csv: .*'good'"):
        movielens.read(folder_of(tmp_path / "ml", files), ImportFolder(tmp_path))


def test_tables_of_vectors_come_in_with_fields_and_without_a_word_of_ours(tmp_path) -> None:
    items = {
        "item_id": ["a", "b", "c"],
        "title": ["Mug", None, "Cup"],
        "clip": [[1.0, 2.0], None, [3.0, 4.0]],
    }
    (tmp_path / "peer").mkdir()
    pl.DataFrame(items).write_parquet(tmp_path / "peer" / "items.parquet")
    log = pl.DataFrame({"user_id": [1, 1], "item_id": ["c", "d"], "timestamp": [date(2024, 2, 29)] * 2})
    log.write_parquet(tmp_path / "peer" / "interactions.parquet")
    target = ImportFolder(tmp_path)
    arrow.read_parquet(Source(tmp_path / "peer"), target)
    assert pl.read_parquet(tmp_path / "interactions.parquet").equals(log)
    written = pl.read_parquet(tmp_path / "items.parquet")
    assert written.rows() == [("a", "Mug"), ("b", None), ("c", "Cup"), ("d", None)]
    clip = np.load(tmp_path / "features" / "clip.npy")
    assert clip[[0, 2]].tolist() == [[1, 2], [3, 4]] and np.isnan(clip[[1, 3]]).all()


def test_vectors_of_two_lengths_are_refused(tmp_path) -> None:
    items = {"item_id": [1, 2], "clip": [[1.0, 2.0], [3.0]]}
    (tmp_path / "in").mkdir()
    pl.DataFrame(items).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame({"user_id": [1], "item_id": [1]}).write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(InputError, match="vectors of 'clip' have 1 to 2 values"):
        arrow.read_parquet(Source(tmp_path), ImportFolder(tmp_path / "in"))
