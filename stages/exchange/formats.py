"""Which formats there are, and what reads and writes each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from . import amazon, arrow, cornac, faiss_index, hm, movielens, numpy_files, recbole, toolbox
from .folder import ImportFolder
from .names import ExportFormat, ImportFormat
from .notes import Notes
from .run_data import RunData
from .source import Source

Reader: TypeAlias = Callable[[Source, ImportFolder], None]
Writer: TypeAlias = Callable[[RunData, Path, str, Mapping[str, str]], Notes]  # folder, name of the set, views

READERS: Mapping[ImportFormat, Reader] = {
    ImportFormat.toolbox: toolbox.read,
    ImportFormat.recbole: recbole.read,
    ImportFormat.cornac: cornac.read,
    ImportFormat.amazon: amazon.read,
    ImportFormat.movielens: movielens.read,
    ImportFormat.hm: hm.read,
    ImportFormat.parquet: arrow.read_parquet,
    ImportFormat.arrow: arrow.read_arrow,
}
WRITERS: Mapping[ExportFormat, Writer] = {
    ExportFormat.toolbox: toolbox.write,
    ExportFormat.recbole: recbole.write,
    ExportFormat.cornac: cornac.write,
    ExportFormat.numpy: numpy_files.write,
    ExportFormat.parquet: arrow.write_parquet,
    ExportFormat.arrow: arrow.write_arrow,
    ExportFormat.faiss: faiss_index.write,
}
