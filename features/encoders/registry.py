"""Encoders by the name that a config gives."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .base import Encoder

SIDECAR = "open_clip_config.json"  # beside a checkpoint: its architecture and preprocessing
TINY = Path(__file__).with_name("tiny")  # written by tools/train_tiny_clip.py


def load_encoder(name: str, precision: str = "fp32", device: str = "auto") -> Encoder:
    """The encoder "tiny", "open_clip:ARCH/TAG" or "open_clip:ARCH/path/to/checkpoint", ready to encode.

    Raises `InputError` for an unknown name, weights that cannot be had, or a device that is not there, and
    `FileNotFoundError` for a missing checkpoint.
    """
    family, _, rest = name.partition(":")
    if name != "tiny" and (family != "open_clip" or not rest):
        raise InputError(
            f"unknown encoder '{name}'; expected 'tiny', 'open_clip:ARCH/TAG' such as "
            "'open_clip:ViT-B-32/laion2b_s34b_b79k', or 'open_clip:ARCH/path/to/checkpoint'."
        )
    from .checkpoints import find_checkpoint, local_checkpoint
    from .open_clip import OpenClipEncoder

    checkpoint = local_checkpoint("tiny", TINY) if name == "tiny" else find_checkpoint(rest)
    return OpenClipEncoder(checkpoint, precision, device)
