"""What the formats are called. Light to import: the command line lists them."""

from enum import StrEnum


class ImportFormat(StrEnum):
    """Formats that are read."""

    toolbox = "mmrec-toolbox"
    recbole = "recbole"


class ExportFormat(StrEnum):
    """Formats that are written."""

    toolbox = "mmrec-toolbox"
    recbole = "recbole"
