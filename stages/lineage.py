"""What an artefact was made from: digests that decide on reuse and say what changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Lineage = Mapping[str, str]  # component ("features", "train", "code", ...) -> digest


def read_lineage(path: Path, *keys: str) -> dict[str, str] | None:
    """The lineage stored under `keys` of the JSON file `path`; None where there is no finished artefact."""
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None


def changes(previous: Lineage | None, current: Lineage) -> list[str]:
    """The components in which two lineages differ, in the order of `current`; ["new"] at first."""
    if previous is None:
        return ["new"]
    gone = [name for name in previous if name not in current]
    return [name for name in current if previous.get(name) != current[name]] + gone
