"""Which weights a config asks for, known without loading them: an up-to-date store costs no model."""

from __future__ import annotations

from pathlib import Path

from ..files import digest_json, file_sha256
from .registry import SIDECAR, TINY


def encoder_fingerprint(name: str, precision: str) -> dict[str, str]:
    """The encoder's name and precision, with the content of its files where it is on this disk.

    A published tag stands for itself: open_clip pins what it downloads.
    """
    fingerprint = {"name": name, "precision": precision}
    path = TINY if name == "tiny" else Path(name.partition(":")[2].partition("/")[2])
    if path.name and path.exists():
        beside = path.with_name(SIDECAR)
        files = sorted(path.iterdir()) if path.is_dir() else [path, *([beside] if beside.is_file() else [])]
        content = [[file.name, file_sha256(file)] for file in files if file.is_file()]
        fingerprint["weights"] = digest_json(content)
    return fingerprint
