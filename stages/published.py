"""Published bundles as their readers see them: complete or absent, and found by one look at a link."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from ..features.errors import InputError, first_line
from ..features.files import file_sha256
from ..features.manifest import sealed
from .bundle import Bundle, read_bundle

SCHEMA = 1
ACCOUNT = "bundle.json"  # written last
CURRENT, BUNDLES, HISTORY = "current", "bundles", "history.jsonl"
SEEN, CATALOG, PROBE = "seen.parquet", "catalog.parquet", "probe.parquet"


@dataclass(frozen=True, slots=True)
class PublishedBundle:
    """One bundle in its own folder; what is published meanwhile does not touch it."""

    folder: Path  # resolved: never the link
    account: dict[str, Any]  # the content of bundle.json

    @property
    def id(self) -> str:
        return self.account["id"]

    @property
    def model_folder(self) -> Path:
        return self.folder / "model"

    @property
    def index_folder(self) -> Path:
        return self.folder / "index"

    def model(self) -> Bundle:
        """Ids and vectors of users and items."""
        return read_bundle(self.model_folder)

    def table(self, name: str) -> pl.DataFrame | None:
        """`SEEN`, `CATALOG` or `PROBE` as a table; None where the bundle has none."""
        if name not in self.account["files"]:
            return None
        with self.damage(name):
            return pl.read_parquet(self.folder / name, glob=False)

    @contextmanager
    def damage(self, name: str) -> Iterator[None]:
        """InputError in place of what reading the file `name` raises where its bytes are others."""
        try:
            yield
        except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
            raise _damaged(self.folder, f"{name}: {first_line(error)}") from error

    def verify(self) -> None:
        """Hash every file; InputError names those that are not as they were published."""
        wrong = [
            name
            for name, facts in self.account["files"].items()
            if not (self.folder / name).is_file() or file_sha256(self.folder / name) != facts["sha256"]
        ]
        if wrong:
            raise _damaged(self.folder, ", ".join(wrong))


def open_published(folder: Path, verify: bool = False) -> PublishedBundle:
    """What is published in `folder`, or the bundle that `folder` is; `verify` hashes every file.

    The link is followed once: all that is read afterwards is of one bundle, which stays for a while after
    another has taken its place (`keep_hours`). Raises FileNotFoundError where nothing is published,
    InputError for a bundle that is damaged or newer than this program.
    """
    place = folder if (folder / ACCOUNT).is_file() else folder / CURRENT
    if place.is_symlink() and not place.exists():
        raise _damaged(folder, f"the link '{CURRENT}' names {place.readlink()}, which is not there")
    try:
        resolved = place.resolve(strict=True)
        account = _read(resolved)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder}: nothing is published here; `mmrec run` publishes where its config has [publish]"
        ) from error
    bundle = PublishedBundle(resolved, account)
    sizes = {name: facts["bytes"] for name, facts in account["files"].items()}
    wrong = [name for name, size in sizes.items() if _size(resolved / name) != size]
    if wrong:
        raise _damaged(resolved, ", ".join(wrong))
    if verify:
        bundle.verify()
    return bundle


def is_published(folder: Path) -> bool:
    """Whether `folder` has a published bundle, sound or not."""
    return (folder / CURRENT).is_symlink()


def published_id(folder: Path) -> str | None:
    """The id that the link in `folder` names; None where nothing is published."""
    return (folder / CURRENT).readlink().name if is_published(folder) else None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / ACCOUNT
    try:
        account = json.loads(path.read_text(encoding="utf-8"))
        if account["schema"] != SCHEMA:
            raise InputError(f"{path}: schema {account['schema']}, this version reads {SCHEMA}; update mmrec")
        if account != sealed(account):
            raise ValueError("its content does not have its checksum")
        return account
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{ACCOUNT}: {first_line(error)}") from error


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(
        f"{folder}: damaged bundle ({what}); go back to an earlier one with `mmrec rollback`, or where there "
        f"is none, remove the link '{CURRENT}' and run again"
    )
