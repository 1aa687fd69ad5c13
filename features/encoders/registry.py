"""Encoders by the name that a config gives."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from .base import Encoder

SIDECAR = "open_clip_config.json"  # beside a checkpoint: its architecture and preprocessing
BEIT3_WEIGHTS, BEIT3_TOKENIZER = "model.safetensors", "beit3.spm"
BEIT3_SIDECAR = "beit3_config.json"  # beside a BEiT-3 whose tensors do not say how many heads it has
VLMO_WEIGHTS, VLMO_VOCABULARY = "model.safetensors", "vocab.txt"
VLMO_SIDECAR = "vlmo_config.json"  # beside a VLMo whose tensors do not say all of its sizes
TINY = Path(__file__).with_name("tiny")  # written by tools/train_tiny_clip.py


def load_encoder(
    name: str,
    precision: str = "fp32",
    device: str = "auto",
    context_length: int | None = None,
    normalise: bool = True,
    image_size: int | None = None,
) -> Encoder:
    """The encoder of that name, ready to encode: "tiny", "open_clip:ARCH/TAG", "open_clip:ARCH/path",
    "longclip:ARCH/path", "beit3:path" or "vlmo:path".

    `context_length` stretches the text positions of a CLIP, or is the longest text of a BEiT-3 or VLMo, whose
    image positions `image_size` interpolates; without `normalise` vectors keep their norms.
    Raises `InputError` for an unknown name, weights that cannot be had, or a device that is not there, and
    `FileNotFoundError` for a missing checkpoint.
    """
    family, _, rest = name.partition(":")
    if name != "tiny" and (family not in ("open_clip", "longclip", "beit3", "vlmo") or not rest):
        raise InputError(
            f"unknown encoder '{name}'; expected 'tiny', 'open_clip:ARCH/TAG' such as "
            "'open_clip:ViT-B-32/laion2b_s34b_b79k', 'open_clip:ARCH/path/to/checkpoint', "
            "'longclip:ARCH/path/to/checkpoint', 'beit3:path/to/checkpoint.pth', or "
            "'vlmo:path/to/checkpoint.pt'."
        )
    if family == "beit3":
        from .beit3 import Beit3Encoder
        from .beit3_checkpoint import find_beit3

        return Beit3Encoder(find_beit3(rest), precision, device, context_length, normalise, image_size)
    if family == "vlmo":
        from .vlmo import VlmoEncoder
        from .vlmo_checkpoint import find_vlmo

        return VlmoEncoder(find_vlmo(rest), precision, device, context_length, normalise, image_size)
    if image_size is not None:
        raise InputError(f"extract.image_size: '{name}' has a size of its own; leave the key out")
    from .checkpoints import find_checkpoint, find_long_clip, local_checkpoint
    from .open_clip import OpenClipEncoder

    if name == "tiny":
        checkpoint = local_checkpoint("tiny", TINY)
    else:
        checkpoint = find_long_clip(rest) if family == "longclip" else find_checkpoint(rest)
    return OpenClipEncoder(checkpoint, precision, device, context_length, normalise)
