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


class ExportFormat(StrEnum):
    """Formats that are written."""

    toolbox = "mmrec-toolbox"
    recbole = "recbole"
    cornac = "cornac"
