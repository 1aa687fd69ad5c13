"""What a peer's layout has no place for, in a file of ours beside it, so that a round trip loses nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from ...features.errors import InputError
from ...features.files import write_json
from ...features.versions import library_versions

NOTES = "mmrec.json"
SCHEMA = 1
Kind = Literal["integer", "string"]


@dataclass(frozen=True, slots=True)
class Notes:
    """Of an export: types of ids, the log's own columns, names of views, and what made their vectors."""

    format: str
    user_id: Kind | None = None
    item_id: Kind | None = None
    columns: tuple[str, ...] | None = None  # of the log beside ids and split; None: not known
    views: Mapping[str, str] = field(default_factory=dict)  # what a view is called there -> its name here
    space: Mapping[str, Any] = field(default_factory=dict)  # of the feature store

    def view(self, name: str) -> str:
        return self.views.get(name, name)


def kind_of(ids: pl.Series) -> Kind:
    return "integer" if ids.dtype.is_integer() else "string"


def write_notes(folder: Path, notes: Notes) -> None:
    """Written last: a folder without it is not an export of ours."""
    made_by = library_versions(["mmrec"])
    write_json(folder / NOTES, {"schema": SCHEMA, "libraries": made_by, **asdict(notes)})


def read_notes(folder: Path, format_name: str) -> Notes:
    """The notes beside data of this format, empty where there are none or those of another one."""
    try:
        account = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        if account["schema"] != SCHEMA or account["format"] != format_name:
            return Notes(format_name)
        columns = account["columns"]
        return Notes(
            format_name,
            account["user_id"],
            account["item_id"],
            None if columns is None else tuple(columns),
            account["views"],
            account["space"],
        )
    except FileNotFoundError:
        return Notes(format_name)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / NOTES}: damaged ({error!r}); remove it or export again") from error
