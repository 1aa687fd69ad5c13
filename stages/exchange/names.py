"""What the formats are called. Light to import: the command line lists them."""

from enum import StrEnum


class ImportFormat(StrEnum):
    """Formats that are read."""

    toolbox = "mmrec-toolbox"
    recbole = "recbole"
    cornac = "cornac"
    amazon = "amazon-2023"
    movielens = "movielens"
    hm = "hm"
    parquet = "parquet"
    arrow = "arrow"


class ExportFormat(StrEnum):
    """Formats that are written."""

    toolbox = "mmrec-toolbox"
    recbole = "recbole"
    cornac = "cornac"
    numpy = "numpy"
    parquet = "parquet"
    arrow = "arrow"
    faiss = "faiss"
