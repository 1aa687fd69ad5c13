"""Which versions of which libraries made an artefact."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable


def library_versions(libraries: Iterable[str]) -> dict[str, str]:
    """Library -> version, of those that are installed."""
    versions = {}
    for library in libraries:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
