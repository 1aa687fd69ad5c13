"""What the name of an encoder says about it, known without loading anything."""

from __future__ import annotations

IMAGES_ALONE, TEXTS_ALONE = "timm", "sentence"  # families of one modality


def reads_images(name: str) -> bool:
    """Whether the encoder of that name takes images."""
    return name.partition(":")[0] != TEXTS_ALONE


def reads_texts(name: str) -> bool:
    """Whether the encoder of that name takes texts."""
    return name.partition(":")[0] != IMAGES_ALONE
