import io
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrec.features import vector_file
from mmrec.features.thrift import decode_struct, encode_struct
from mmrec.features.vector_file import (
    Vectors,
    read_footer,
    read_span,
    vector_type,
    vectors_of,
    write_vector_file,
)


def vectors(n: int, dim: int, absent: float) -> Vectors:
    rng = np.random.default_rng(n + dim)
    return rng.standard_normal((n, dim)).astype(np.float16), rng.random(n) >= absent


def write(path: Path, **views: Vectors) -> pa.Table:
    n = len(next(iter(views.values()))[1])
    columns = {"item_id": pa.array(range(n)), "name": pa.array([f"item {row}" for row in range(n)])}
    columns |= {view: pa.nulls(n, vector_type(halves.shape[1])) for view, (halves, _) in views.items()}
    table = pa.table({**columns, "score": pa.array(np.arange(n, dtype=np.float32))})
    write_vector_file(path, table, views, {"made by": "hand"})
    return table


def read(path: Path, view: str, dim: int) -> Vectors:
    return vectors_of(read_span(path, read_footer(path).spans[view]), dim)


@pytest.mark.parametrize("page_bytes", [2**26, 64])
@pytest.mark.parametrize("absent", [0, 0.3, 0.98, 1])
@pytest.mark.parametrize(("n", "dim"), [(1, 1), (7, 2), (300, 3), (100, 128), (3, 300)])
def test_the_file_is_ordinary_parquet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, dim: int, absent: float, page_bytes: int
) -> None:
    monkeypatch.setattr(vector_file, "_PAGE_BYTES", page_bytes)
    halves, present = vectors(n, dim, absent)
    others = vectors(n, 5, 0.5)
    path = tmp_path / "shard.parquet"
    written = write(path, image=(halves, present), text=others)
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        by_arrow = file.read()
    assert by_arrow.schema.equals(written.schema)
    for name in ("item_id", "name", "score"):
        assert by_arrow[name].equals(written[name])
    by_polars = pl.read_parquet(path)
    expected = [row if has else None for row, has in zip(halves.tolist(), present, strict=True)]
    assert by_arrow["image"].to_pylist() == by_polars["image"].to_list() == expected
    assert by_polars["image"].dtype == pl.Array(pl.Float16, dim)
    for view, (values, has) in {"image": (halves, present), "text": others}.items():
        found, found_has = read(path, view, values.shape[1])
        assert (found_has == has).all() and (found == np.where(has[:, None], values, 0)).all()


def test_any_damaged_byte_is_noticed_or_of_no_consequence(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"
    views = {"image": vectors(9, 4, 0.3), "text": vectors(9, 4, 0)}
    write(path, **views)
    content = path.read_bytes()
    spans = read_footer(path).spans
    noticed = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            footer = read_footer(path)
            for span in footer.spans.values():
                read_span(path, span)
        except (OSError, ValueError, pa.ArrowException):
            noticed += 1
        else:
            assert footer.spans == spans
    assert noticed == len(content) - 4  # the first four say that this is Parquet; nothing reads them


@pytest.mark.parametrize("share", [0, 0.2, 0.5, 0.99])
def test_a_truncated_file_is_noticed(tmp_path: Path, share: float) -> None:
    path = tmp_path / "shard.parquet"
    write(path, image=vectors(50, 8, 0))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises((OSError, ValueError, pa.ArrowException)):
        read_footer(path)


def test_structs_are_written_as_they_were_read() -> None:
    table = pa.table(
        {
            **{f"column {n}": pa.array([n, None], pa.uint16()) for n in range(20)},
            "nested": pa.array([{"a": [1.5], "b": True}, None]),
            "when": pa.array([1, -2], pa.timestamp("us")),
            "x" * 200: pa.array(["a", "b"]),
        }
    )
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=1)
    content = stream.getvalue()
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") : -8]
    struct, end = decode_struct(footer)
    assert (end, struct[3][1]) == (len(footer), 2)
    assert encode_struct(struct) == footer
