"""Which weights a config asks for, known without loading them: an up-to-date store costs no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import digest_json, file_sha256
from .registry import SIDECAR, TINY


def encoder_fingerprint(
    name: str, precision: str, context_length: int | None = None, normalise: bool = True
) -> dict[str, Any]:
    """What `load_encoder` is told of the encoder, with the content of its files where it is on this disk.

    A published tag stands for itself: open_clip pins what it downloads.
    """
    fingerprint: dict[str, Any] = {"name": name, "precision": precision}
    if context_length is not None:
        fingerprint["context_length"] = context_length
    if not normalise:
        fingerprint["normalise"] = False
    path = TINY if name == "tiny" else Path(name.partition(":")[2].partition("/")[2])
    if path.name and path.exists():
        beside = path.with_name(SIDECAR)
        files = sorted(path.iterdir()) if path.is_dir() else [path, *([beside] if beside.is_file() else [])]
        content = [[file.name, file_sha256(file)] for file in files if file.is_file()]
        fingerprint["weights"] = digest_json(content)
    return fingerprint
