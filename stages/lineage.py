"""What an artefact was made from: digests that decide on reuse and say what changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Lineage = Mapping[str, str]  # component ("features", "settings", "code", ...) -> digest


def file_sizes(paths: Iterable[Path]) -> dict[str, int]:
    """Name -> bytes: the "files" entry of the JSON that finishes an artefact; folders by what they hold."""
    files = [
        (file.relative_to(path.parent).as_posix(), file)
        for path in paths
        for file in (path, *sorted(path.rglob("*")))
        if file.is_file()
    ]
    return {name: file.stat().st_size for name, file in files}


def read_lineage(path: Path, *keys: str, told: bool = True) -> dict[str, str] | None:
    """The lineage under `keys` of the JSON file `path` that finishes an artefact.

    None where there is no finished artefact, or one whose "files" beside `path` are not as they were written;
    of that a stage, which makes it again, tells.
    """
    try:
        account: Any = json.loads(path.read_text(encoding="utf-8"))
        bad = [name for name, size in account["files"].items() if _size(path.parent / name) != size]
        value = account
        for key in keys:
            value = value[key]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if told:
            log.warning("%s: damaged (%r); it is made again", path, error)
        return None
    if bad:
        if told:
            log.warning("%s: %s missing or damaged; it is made again", path.parent, ", ".join(bad))
        return None
    return value


def changes(previous: Lineage | None, current: Lineage) -> list[str]:
    """The components in which two lineages differ, in the order of `current`; ["new"] at first."""
    if previous is None:
        return ["new"]
    gone = [name for name in previous if name not in current]
    return [name for name in current if previous.get(name) != current[name]] + gone


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
