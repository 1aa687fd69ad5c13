from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmrec.features.errors import InputError
from mmrec.stages.exchange import recbole
from mmrec.stages.exchange.folder import ImportFolder
from mmrec.stages.exchange.source import Source

INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "196\t242\t3\t881250949\n186\t302\t3\t891717742\n"
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tprice:float\n"
    "242\tKolya\t1996\tComedy\t1.5\n"
    '302\tL.A. "Confidential" &amp; more\t1997\tCrime Film-Noir\t\n9\t\t\tWar\t2\n'
)


def ml_100k(folder: Path, **files: str) -> Source:
    folder.mkdir()
    for name, content in {"ml-100k.inter": INTER, "ml-100k.item": ITEM, **files}.items():
        (folder / name).write_text(content, encoding="utf-8")
    return Source(folder)


def test_types_stand_in_the_header_and_ids_that_are_numbers_are_integers(tmp_path) -> None:
    target = ImportFolder(tmp_path)
    recbole.read(ml_100k(tmp_path / "ml-100k"), target)
    log = pl.read_parquet(tmp_path / "interactions.parquet")
    assert log.rows() == [(196, 242, 3, 881250949), (186, 302, 3, 891717742)]
    items = pl.read_parquet(tmp_path / "items.parquet")
    assert items.rows() == [
        (242, "Kolya", "1996", "Comedy", 1.5),
        (302, 'L.A. "Confidential" &amp; more', "1997", "Crime Film-Noir", None),
        (9, None, None, "War", 2.0),
    ]
    assert target.sections()["extract"]["text_views"] == {"all": "{movie_title}. {class}"}


def test_benchmark_files_are_splits_and_embeddings_features(tmp_path) -> None:
    source = ml_100k(
        tmp_path / "ml-100k",
        **{
            "ml-100k.part1.inter": INTER,
            "ml-100k.part3.inter": INTER.replace("242", "9").replace("302", "9"),
        },
        **{"ml-100k.itememb": "iid:token\timage:float_seq\n302\t0.1 -2e-05 3\n9\t\n242\t1 1 0\n"},
    )
    target = ImportFolder(tmp_path)
    recbole.read(source, target)
    log = pl.read_parquet(tmp_path / "interactions.parquet")
    assert log["split"].to_list() == ["train", "train", "test", "test"]
    image = np.load(tmp_path / "features" / "image.npy")
    assert image[:2].tolist() == [[1, 1, 0], [np.float32(0.1), np.float32(-2e-05), 3]]
    assert np.isnan(image[2]).all()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ml-100k.inter", INTER.replace("user_id:token", "user_id"), "'user_id'; expected name:type"),
        ("ml-100k.inter", INTER.replace("item_id", "movie_id"), "no column 'item_id'"),
        ("ml-100k.fold1.inter", INTER, "which split is 'fold1'"),
        ("ml-1m.inter", INTER, r"2 sets: ml-100k, ml-1m\. Choose one with --name"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, file: str, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recbole.read(ml_100k(tmp_path / "ml-100k", **{file: content}), ImportFolder(tmp_path))
