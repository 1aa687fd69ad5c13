from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmrec.features.errors import InputError
from mmrec.stages.exchange import cornac
from mmrec.stages.exchange.folder import ImportFolder
from mmrec.stages.exchange.source import Source
from mmrec.stages.exchange.text import write_plain


def peer(folder: Path, triples: str, ids: str | None = "B1\nB7\n") -> Source:
    folder.mkdir()
    (folder / "uirt.txt").write_text(triples)
    np.save(folder / "image.npy", np.array([[1, 2], [3, 4]], np.float32))
    if ids is not None:
        (folder / "image_ids.txt").write_text(ids)
    return Source(folder)


@pytest.mark.parametrize("separator", ["\t", ",", "::"])
def test_triples_have_no_header_and_features_ids_of_their_own(tmp_path, separator: str) -> None:
    lines = ["A\tB1\t4.0\t9", "B\tB2\t1.0\t8"]
    source = peer(tmp_path / "peer", "".join(line.replace("\t", separator) + "\n" for line in lines))
    cornac.read(source, ImportFolder(tmp_path))
    assert pl.read_parquet(tmp_path / "interactions.parquet").rows() == [
        ("A", "B1", 4.0, 9),
        ("B", "B2", 1.0, 8),
    ]
    assert pl.read_parquet(tmp_path / "items.parquet")["item_id"].to_list() == ["B1", "B7", "B2"]
    image = np.load(tmp_path / "features" / "image.npy")
    assert image[:2].tolist() == [[1, 2], [3, 4]] and np.isnan(image[2]).all()


@pytest.mark.parametrize(
    ("triples", "ids", "message"),
    [
        ("A\tB1\t4\n", None, r"no ids for the rows of image\.npy; looked for .*image_ids\.txt"),
        ("A\tB1\t4\n", "B1\n", r"image\.npy: 2 rows for 1 ids"),
        ("A\tB1\t4\t9\nA\tB2\n", "B1\nB7\n", r"2 fields between .*'A\\tB2'"),
        ("A\tB1\t4\t9\t5\n", "B1\nB7\n", "5 fields in line 1"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, triples: str, ids: str | None, message: str) -> None:
    with pytest.raises((InputError, FileNotFoundError), match=message):
        cornac.read(peer(tmp_path / "peer", triples, ids), ImportFolder(tmp_path))


def test_an_id_that_would_break_a_line_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"user_id 'a\\tb' cannot stand in train\.tsv"):
        write_plain(tmp_path / "train.tsv", pl.DataFrame({"user_id": ["a\tb"]}))
