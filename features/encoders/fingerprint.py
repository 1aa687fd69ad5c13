"""Which weights a config asks for, known without loading them: an up-to-date store costs no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import digest_json, file_sha256
from .names import IMAGES_ALONE, TEXTS_ALONE
from .registry import (
    BEIT3_SIDECAR,
    BEIT3_WEIGHTS,
    SIDECAR,
    TIMM_SIDECAR,
    TINY,
    VLMO_SIDECAR,
    VLMO_VOCABULARY,
    VLMO_WEIGHTS,
)

SENTENCE_FILES = (".bin", ".json", ".model", ".safetensors", ".txt")


def encoder_fingerprint(
    name: str,
    precision: str,
    context_length: int | None = None,
    normalise: bool = True,
    image_size: int | None = None,
) -> dict[str, Any]:
    """What `load_encoder` is told of the encoder, with the content of its files where it is on this disk.

    A published tag stands for itself: open_clip pins what it downloads.
    """
    fingerprint: dict[str, Any] = {"name": name, "precision": precision}
    if context_length is not None:
        fingerprint["context_length"] = context_length
    if not normalise:
        fingerprint["normalise"] = False
    if image_size is not None:
        fingerprint["image_size"] = image_size
    content = [[file.name, file_sha256(file)] for file in _files(name) if file.is_file()]
    if content:
        fingerprint["weights"] = digest_json(content)
    return fingerprint


def _files(name: str) -> list[Path]:
    """All that `load_encoder` may read of an encoder on this disk."""
    family, _, rest = name.partition(":")
    if family == "beit3":
        weights = Path(rest) / BEIT3_WEIGHTS if Path(rest).is_dir() else Path(rest)
        return [weights, weights.with_name(BEIT3_SIDECAR), *sorted(weights.parent.glob("*.spm"))]
    if family == "vlmo":
        weights = Path(rest) / VLMO_WEIGHTS if Path(rest).is_dir() else Path(rest)
        return [weights, weights.with_name(VLMO_SIDECAR), weights.with_name(VLMO_VOCABULARY)]
    if family == TEXTS_ALONE:
        return sorted(file for file in Path(rest).rglob("*") if file.suffix in SENTENCE_FILES)
    path = TINY if name == "tiny" else Path(rest.partition("/")[2])
    if not path.name or not path.exists():
        return []
    if path.is_dir():
        return sorted(path.iterdir())
    return [path, path.with_name(TIMM_SIDECAR if family == IMAGES_ALONE else SIDECAR)]
