"""Encoders by the name that a config gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from .base import Encoder, ImageEncoder, TextEncoder
from .names import IMAGES_ALONE, TEXTS_ALONE, reads_images, reads_texts

SIDECAR = "open_clip_config.json"  # beside a checkpoint: its architecture and preprocessing
BEIT3_WEIGHTS, BEIT3_TOKENIZER = "model.safetensors", "beit3.spm"
BEIT3_SIDECAR = "beit3_config.json"  # beside a BEiT-3 whose tensors do not say how many heads it has
VLMO_WEIGHTS, VLMO_VOCABULARY = "model.safetensors", "vocab.txt"
VLMO_SIDECAR = "vlmo_config.json"  # beside a VLMo whose tensors do not say all of its sizes
TIMM_SIDECAR = "config.json"  # beside a checkpoint of timm: its preprocessing and the options of its model
FAMILIES = ("open_clip", "longclip", "beit3", "vlmo", IMAGES_ALONE, TEXTS_ALONE)
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
    require_both(name)
    return build_encoder(name, precision, device, context_length, normalise, image_size)


def load_image_encoder(
    name: str,
    precision: str = "fp32",
    device: str = "auto",
    context_length: int | None = None,
    normalise: bool = True,
    image_size: int | None = None,
) -> ImageEncoder:
    """The encoder of that name, of those that `load_encoder` takes or "timm:MODEL", "timm:MODEL/path".

    `image_size` is another side of the picture of a timm model. Raises what `load_encoder` raises.
    """
    if reads_texts(name):
        return load_encoder(name, precision, device, context_length, normalise, image_size)
    return build_encoder(name, precision, device, context_length, normalise, image_size)


def load_text_encoder(
    name: str,
    precision: str = "fp32",
    device: str = "auto",
    context_length: int | None = None,
    normalise: bool = True,
) -> TextEncoder:
    """The encoder of that name, of those that `load_encoder` takes or "sentence:NAME", "sentence:path".

    Raises what `load_encoder` raises.
    """
    if reads_images(name):
        return load_encoder(name, precision, device, context_length, normalise)
    return build_encoder(name, precision, device, context_length, normalise)


def require_both(name: str) -> None:
    """InputError for the name of an encoder of one modality."""
    if not (reads_images(name) and reads_texts(name)):
        what = "images" if reads_images(name) else "texts"
        raise InputError(f"encoder '{name}' reads {what} alone; expected one of images and texts")


def build_encoder(
    name: str,
    precision: str,
    device: str,
    context_length: int | None,
    normalise: bool,
    image_size: int | None = None,
    trainable: bool = False,
) -> Any:
    """What the functions above give; if `trainable`, with the checkpoint's own parameters in float32."""
    family, _, rest = name.partition(":")
    if name != "tiny" and (family not in FAMILIES or not rest):
        raise InputError(
            f"unknown encoder '{name}'; expected 'tiny', 'open_clip:ARCH/TAG' such as "
            "'open_clip:ViT-B-32/laion2b_s34b_b79k', 'open_clip:ARCH/path/to/checkpoint', "
            "'longclip:ARCH/path/to/checkpoint', 'beit3:path/to/checkpoint.pth', "
            "'vlmo:path/to/checkpoint.pt', of images alone 'timm:MODEL' or 'timm:MODEL/path/to/checkpoint', "
            "or of texts alone 'sentence:NAME' or 'sentence:path/to/folder'."
        )
    if family == IMAGES_ALONE:
        from .timm_encoder import TimmEncoder

        return TimmEncoder(rest, precision, device, normalise, image_size, trainable)
    if family == TEXTS_ALONE:
        from .sentence import SentenceEncoder

        return SentenceEncoder(rest, precision, device, context_length, normalise, trainable)
    if family == "beit3":
        from .beit3 import Beit3Encoder
        from .beit3_checkpoint import find_beit3

        files = find_beit3(rest)
        return Beit3Encoder(files, precision, device, context_length, normalise, image_size, trainable)
    if family == "vlmo":
        from .vlmo import VlmoEncoder
        from .vlmo_checkpoint import find_vlmo

        files = find_vlmo(rest)
        return VlmoEncoder(files, precision, device, context_length, normalise, image_size, trainable)
    if image_size is not None:
        raise InputError(f"image_size: '{name}' has a size of its own; leave the key out")
    from .checkpoints import find_checkpoint, find_long_clip, local_checkpoint
    from .open_clip import OpenClipEncoder

    if name == "tiny":
        checkpoint = local_checkpoint("tiny", TINY)
    else:
        checkpoint = find_long_clip(rest) if family == "longclip" else find_checkpoint(rest)
    return OpenClipEncoder(checkpoint, precision, device, context_length, normalise, trainable)
