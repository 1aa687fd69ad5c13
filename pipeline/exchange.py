"""`mmrec import` and `mmrec export`: other tools' data to a folder that can be run, and a run to theirs."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import tomli_w

from ..features.errors import InputError
from ..features.files import atomic_path, file_sha256, fresh_folder, recover_folder, write_json
from ..features.store import MANIFEST, FeatureStore
from ..features.versions import library_versions
from ..recsys.probe import withhold
from ..stages.exchange.folder import ImportFolder
from ..stages.exchange.formats import READERS, WRITERS
from ..stages.exchange.names import ExportFormat, ImportFormat
from ..stages.exchange.notes import NOTES, write_notes
from ..stages.exchange.run_data import RunData
from ..stages.exchange.source import Source
from .config import load_config
from .lock import locked
from .outcome import Outcome
from .publishing import split_log

log = logging.getLogger(__name__)

_ACCOUNT, _CONFIG = "import.json", "config.toml"
_STAGED = ".import"  # in the folder while an import is under way
_HEADER = """\
# Made by `mmrec import {format}`; yours to change. Run it with: mmrec run -c {config}
# Every key is explained in docs/configuration.md.
"""


def import_data(format_name: ImportFormat, source: Path, folder: Path, name: str | None = None) -> Outcome:
    """Write catalogue, log, features and config.toml to `folder`, which is new, empty or an earlier import.

    A config that was edited since is kept. Raises FileNotFoundError or InputError for data that is not of the
    format, and leaves the folder as it was.
    """
    data = Source(source, name)
    _refuse_other_content(folder, _ACCOUNT, "an import")
    with locked(folder), _staged(folder) as fresh:
        target = ImportFolder(fresh)
        READERS[format_name](data, target)
        kept = _keeps_config(folder)
        header = _HEADER.format(format=format_name, config=folder / _CONFIG)
        (fresh / _CONFIG).write_text(header + "\n" + tomli_w.dumps(target.sections()), encoding="utf-8")
        load_config(fresh / _CONFIG)
        facts = {
            "schema": 1,
            "format": format_name,
            "source": str(source.absolute()),
            "rows": target.rows,
            "views": target.views,
            "config_sha256": file_sha256(fresh / _CONFIG),
            "libraries": library_versions(["mmrec"]),
        }
        if kept:
            log.warning("%s was edited: it stays as it is", folder / _CONFIG)
            (fresh / _CONFIG).unlink()
        write_json(fresh / _ACCOUNT, facts)
    found = [f"{count:,} {what}" for what, count in target.rows.items() if count]
    found += [f"{view} ({dim})" for view, dim in target.views.items()]
    text = f"{', '.join(found)} -> {folder}\nnext: mmrec run -c {folder / _CONFIG}"
    return Outcome({"import": facts}, text)


def export_run(
    format_name: ExportFormat, run: Path, folder: Path, views: Mapping[str, str] | None = None
) -> Outcome:
    """Write what the run folder holds to `folder`: new, empty, or an earlier export, which is replaced."""
    if not (run / _CONFIG).is_file():
        raise FileNotFoundError(f"{run}: no run folder (no {_CONFIG}); name the output of `mmrec run`")
    config = load_config(run / _CONFIG, output=run)
    place = Path(os.path.normpath(folder.absolute()))  # its last part is the name of the set
    recover_folder(place)
    _refuse_other_content(folder, NOTES, "an export")
    store = FeatureStore(config.features) if (config.features / MANIFEST).is_file() else None

    def used(log: pl.DataFrame) -> pl.DataFrame:
        assert config.interactions is not None  # the log has been read
        return withhold(log, split_log(config, store, log).probe, config.interactions)

    data = RunData(run, config.interactions, config.catalog, store, used if config.publish else None)
    with locked(run), fresh_folder(place) as fresh:
        notes = WRITERS[format_name](data, fresh, place.name, views or {})
        write_notes(fresh, notes)
    files = {path.relative_to(place).as_posix(): path.stat().st_size for path in _files(place)}
    size = sum(files.values()) / 1e6
    text = f"{len(files)} files, {size:,.1f} MB -> {folder}: {', '.join(files)}"
    return Outcome({"export": {"format": format_name, "run": str(run), "files": files}}, text)


def parse_views(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=VIEW` of the command line, or `VIEW` for one that keeps its name."""
    views = {}
    for pair in pairs:
        name, equals, view = pair.partition("=")
        if not name or (equals and not view) or name in views:
            raise InputError(f"--view {pair}: expected NAME=VIEW, such as image=image.full, each name once")
        views[name] = view or name
    return views


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _refuse_other_content(folder: Path, mark: str, what: str) -> None:
    """InputError for a folder with something in it that is not ours to replace."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder")
    there = (
        [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []
    )
    if there and not (folder / mark).is_file() and not (folder / _STAGED).exists():
        raise InputError(
            f"{folder} holds {there[0]!r} and is no earlier {what.split()[-1]}; name a new or empty folder"
        )


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """An empty folder in `folder`, whose content takes its place there when the block succeeds."""
    fresh = folder / _STAGED
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        for path in sorted(_files(fresh), key=lambda path: path.name == _ACCOUNT):
            target = folder / path.relative_to(fresh)
            target.parent.mkdir(exist_ok=True)
            with atomic_path(target) as unfinished:
                path.rename(unfinished)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _keeps_config(folder: Path) -> bool:
    """Whether the config there is no longer the one that an import wrote."""
    try:
        account = json.loads((folder / _ACCOUNT).read_text(encoding="utf-8"))
        return account["config_sha256"] != file_sha256(folder / _CONFIG)
    except FileNotFoundError:  # new, or an import was killed before its end
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / _ACCOUNT}: damaged ({error!r}); name another folder") from error
