"""The manifest of a feature store: its checksum, its schema, and what older schemas are read as."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import InputError, first_line
from .files import digest_json
from .versions import library_versions

MANIFEST = "manifest.json"
SCHEMA = 2
_CHECKSUM = "checksum"
_KEYS = ("rows", "space", "views", "similarity", "shards", "failures", "stats")


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of the store, in the present schema whichever it was written in.

    FileNotFoundError without one; InputError for one that is damaged, not ours or newer than this program.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        digest_json(manifest)  # refuses the NaN and the infinities that Python reads from JSON
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder}: no feature store here (no {MANIFEST}); run `mmrec extract`"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not valid JSON: {first_line(error)}") from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if type(schema) is not int or schema < 1:
        raise _damaged(path, f"schema {schema!r}, expected 1 to {SCHEMA}")
    if schema > SCHEMA:
        raise _newer(path, manifest)
    if schema > 1 and manifest != sealed(manifest):
        raise _damaged(path, "its content does not have its checksum")
    missing = [key for key in _KEYS if key not in manifest]
    if missing:
        raise _damaged(path, f"no {', '.join(missing)}")
    for older in range(schema, SCHEMA):
        manifest = _MIGRATIONS[older](manifest)
    return manifest


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the checksum of all else that it holds."""
    content = {key: value for key, value in manifest.items() if key != _CHECKSUM}
    return {**content, _CHECKSUM: digest_json(content)}


def _from_1(manifest: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 added checksums: of the manifest, of the ledger, and of the columns by way of the footers.

    Shards without a `footer` are Arrow's own; they are checked whole, and stay as they are until they change.
    """
    return sealed({**manifest, "schema": 2})


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}


def _newer(path: Path, manifest: dict[str, Any]) -> InputError:
    libraries = manifest.get("libraries")
    maker = libraries.get("mmrec") if isinstance(libraries, dict) else None
    made_by = f"mmrec {maker}" if maker else "a newer mmrec"
    running = library_versions(["mmrec"]).get("mmrec", "of unknown version")
    return InputError(
        f"{path}: schema {manifest['schema']}, made by {made_by}; this is mmrec {running}, which reads "
        f"schemas 1 to {SCHEMA}. Update mmrec, or write the features to another folder."
    )


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: damaged ({what}); remove it and run `mmrec extract` again")
