"""Reading a shard of the feature store, one column at a time, each checked before it is used."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import InputError, first_line
from .files import file_sha256
from .shards import SIMILARITY
from .vector_file import Footer, Vectors, read_footer, read_span, vectors_of


class Shard:
    """A shard that a manifest lists.

    The manifest has the digest of the file's footer, and the footer the checksums of its columns: what is
    read is checked, all else stays unread. A shard of schema 1 has neither and is checked as a whole, once.
    """

    def __init__(self, folder: Path, entry: dict[str, Any]) -> None:
        """InputError when the file is gone."""
        self.path, self._entry = folder / entry["file"], entry
        self._footer: Footer | None = None
        if not self.path.is_file():
            raise damaged(self.path, "the file is gone")

    def __len__(self) -> int:
        return self._entry["rows"]

    def vectors(self, view: str, dim: int) -> Vectors:
        """(n, dim) float16, zero where the view is null, and present (n,) bool; InputError when damaged."""
        with _naming(self.path):
            footer = self._checked_footer()
            if view in footer.spans:
                return vectors_of(read_span(self.path, footer.spans[view]), dim)
            return _vectors_by_arrow(self._by_arrow(view, footer), dim)

    def column(self, name: str) -> pa.ChunkedArray:
        """A column that is no view; InputError when damaged."""
        with _naming(self.path):
            footer = self._checked_footer()
            if name in footer.spans:
                read_span(self.path, footer.spans[name])
            return self._by_arrow(name, footer)

    def similarity(self, name: str) -> np.ndarray:
        """(n,) float32, NaN where null."""
        return self.column(SIMILARITY + name).to_numpy().astype(np.float32)

    def _by_arrow(self, name: str, footer: Footer) -> pa.ChunkedArray:
        with pq.ParquetFile(self.path, metadata=footer.parquet, page_checksum_verification=True) as file:
            return file.read(columns=[name]).column(0)

    def _checked_footer(self) -> Footer:
        if self._footer is None:
            footer = read_footer(self.path)
            if "footer" in self._entry and footer.digest != self._entry["footer"]:
                raise ValueError("its footer is not the one that was written")
            if "footer" not in self._entry and not is_intact(self.path.parent, self._entry):
                raise ValueError("its checksum is not that of the manifest")
            self._footer = footer
        return self._footer


def is_intact(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether the file of a manifest's shard entry is there with its checksum."""
    path = folder / entry["file"]
    return path.is_file() and path.stat().st_size == entry["bytes"] and file_sha256(path) == entry["sha256"]


def intact_files(folder: Path, entries: Collection[dict[str, Any]]) -> set[str]:
    """Names of the files of a manifest's shard entries that are there with their checksums."""
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to others
        intact = pool.map(lambda entry: is_intact(folder, entry), entries)
        return {entry["file"] for entry, whole in zip(entries, intact, strict=True) if whole}


def is_sound(path: Path) -> bool:
    """Whether every column of a shard file that no manifest lists yet is as it was written."""
    try:
        for span in read_footer(path).spans.values():
            read_span(path, span)
    except (OSError, pa.ArrowException, ValueError):
        return False
    return True


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """The columns, their pages checked against their checksums; InputError names a damaged file."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns=list(columns)).select(columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise damaged(path, first_line(error)) from error


def damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: damaged shard ({what}). Run `mmrec extract` again to rebuild its rows.")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of reading as an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise damaged(path, first_line(error)) from error


def _vectors_by_arrow(column: pa.ChunkedArray, dim: int) -> Vectors:
    """The vectors of a shard whose pages Arrow wrote."""
    lists = column.combine_chunks()
    present = lists.is_valid().to_numpy(zero_copy_only=False)
    values = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)  # the present rows alone
    if present.all():
        return values, present
    matrix = np.zeros((len(present), dim), np.float16)
    matrix[present] = values
    return matrix, present
