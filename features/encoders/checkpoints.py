"""open_clip checkpoints: the weights, architecture and preprocessing of a name, and the model of them."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import logging
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.factory import load_checkpoint
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from ..errors import InputError
from ..files import write_json
from .long_clip import CONTEXT_LENGTH, SECOND_TABLE, load_long_clip
from .registry import SIDECAR
from .state_dicts import UNREADABLE, write_state

log = logging.getLogger(__name__)

WRITTEN_WEIGHTS = "model.safetensors"
FOLDER_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", WRITTEN_WEIGHTS)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights on this disk and everything that decides how they are used."""

    architecture: str
    model_cfg: dict[str, Any]  # open_clip's: embed_dim, vision_cfg, text_cfg, quick_gelu ...
    preprocess: dict[str, Any]  # mean, std, interpolation, resize_mode; the image size is the model's
    weights: Path
    long_clip: bool = False  # in Long-CLIP's layout


def find_checkpoint(name: str) -> Checkpoint:
    """The checkpoint of "ARCH/TAG", downloaded if need be, or of "ARCH/path/to/weights".

    Raises `InputError` for an unknown architecture or tag and for weights out of reach, `FileNotFoundError`
    for a path that is not there.
    """
    architecture, _, rest = name.partition("/")
    if not rest:
        raise InputError(
            f"encoder 'open_clip:{name}' names no weights. {_tags_of(architecture)} "
            "Or give a local checkpoint: open_clip:ARCH/path/to/checkpoint."
        )
    if get_pretrained_cfg(architecture, rest):
        return _published(architecture, rest)
    path = Path(rest)
    if path.exists():
        return local_checkpoint(architecture, path)
    if len(path.parts) > 1 or path.suffix:
        raise FileNotFoundError(f"checkpoint {path} of {architecture}: no such file")
    _model_cfg(architecture)
    raise InputError(f"{architecture} has no pretrained tag '{rest}'. {_tags_of(architecture, rest)}")


def find_long_clip(name: str) -> Checkpoint:
    """The checkpoint "ARCH/path" in the layout of Long-CLIP; ARCH is the CLIP that it was made from.

    Raises `InputError` for an unknown architecture, `FileNotFoundError` for a path that is not there.
    """
    architecture, _, rest = name.partition("/")
    if not rest:
        raise InputError(
            f"encoder 'longclip:{name}' names no file; expected longclip:ViT-L-14/path/to/longclip-L.pt, "
            "or ViT-B-16 and longclip-B.pt"
        )
    weights = Path(rest)
    if not weights.is_file():
        raise FileNotFoundError(f"checkpoint {weights} of Long-CLIP {architecture}: no such file")
    if weights.with_name(SIDECAR).is_file():
        found = local_checkpoint(architecture, weights)
    else:
        found = Checkpoint(architecture, copy.deepcopy(_model_cfg(architecture)), _preprocess({}), weights)
        found.model_cfg["text_cfg"]["context_length"] = CONTEXT_LENGTH
    # Long-CLIP starts from OpenAI's weights: their activation and their preprocessing are its own.
    return replace(found, model_cfg={**found.model_cfg, "quick_gelu": True}, long_clip=True)


def local_checkpoint(architecture: str, path: Path) -> Checkpoint:
    """A checkpoint on this disk, of the config beside it if there is one, else of the named architecture."""
    weights = _weights_in(path) if path.is_dir() else path
    sidecar = weights.with_name(SIDECAR)
    if not sidecar.is_file():
        model_cfg = _model_cfg(architecture)
        return Checkpoint(architecture, model_cfg, _usual_preprocess(architecture), weights)
    try:
        config = json.loads(sidecar.read_text(encoding="utf-8"))
        model_cfg, preprocess = config["model_cfg"], config.get("preprocess_cfg", {})
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(model_cfg)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{sidecar}: not an open_clip config with a 'model_cfg' ({error!r})") from error
    if missing:
        raise InputError(f"{sidecar}: 'model_cfg' lacks {', '.join(sorted(missing))}")
    log.info("%s: architecture and preprocessing taken from %s", weights.name, sidecar)
    return Checkpoint(architecture, model_cfg, _preprocess(preprocess), weights)


def build_model(checkpoint: Checkpoint) -> open_clip.CLIP | open_clip.CustomTextCLIP | open_clip.CoCa:
    """The model in fp32 on the CPU with its weights loaded strictly, in evaluation mode."""
    model_cfg = copy.deepcopy(checkpoint.model_cfg)
    vision_cfg, text_cfg = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    if "timm_model_name" in vision_cfg:
        vision_cfg["timm_model_pretrained"] = False
    if "hf_model_name" in text_cfg:
        text_cfg["hf_model_pretrained"] = False
    custom_text = model_cfg.pop("custom_text", False) or "hf_model_name" in text_cfg
    model_class: Any = open_clip.CLIP
    if custom_text:
        model_class = open_clip.CoCa if "multimodal_cfg" in model_cfg else open_clip.CustomTextCLIP
    try:
        model = model_class(**model_cfg)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise InputError(f"architecture {checkpoint.architecture} cannot be built: {error}") from error
    try:
        if checkpoint.long_clip:
            load_long_clip(model, checkpoint.weights)
        else:
            load_checkpoint(model, str(checkpoint.weights), strict=True, weights_only=True)
    except UNREADABLE as error:
        if SECOND_TABLE in str(error) and not checkpoint.long_clip:
            raise InputError(
                f"{checkpoint.weights} is a Long-CLIP; name it "
                f"'longclip:{checkpoint.architecture}/{checkpoint.weights}'"
            ) from error
        raise InputError(
            f"{checkpoint.weights} holds no weights of {checkpoint.architecture}: {first_lines(error)}. "
            "Expected safetensors or a state dict saved by torch, of exactly this architecture."
        ) from error
    return model.eval().requires_grad_(False)


def write_checkpoint(
    folder: Path, checkpoint: Checkpoint, model: torch.nn.Module, context_length: int
) -> None:
    """Write a model that `checkpoint` was built into, so that `local_checkpoint` finds it: its config first,
    weights last."""
    folder.mkdir(parents=True, exist_ok=True)
    text_cfg = {**checkpoint.model_cfg["text_cfg"], "context_length": context_length}
    model_cfg = {**checkpoint.model_cfg, "text_cfg": text_cfg}
    write_json(folder / SIDECAR, {"model_cfg": model_cfg, "preprocess_cfg": checkpoint.preprocess})
    write_state(folder / WRITTEN_WEIGHTS, model)


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of the state dict, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _published(architecture: str, tag: str) -> Checkpoint:
    tag_cfg = get_pretrained_cfg(architecture, tag)
    weights = _cached(tag_cfg)
    if weights is None:
        log.info("fetching the weights %s/%s", architecture, tag)
        try:
            require_network()
            weights = download_pretrained(tag_cfg)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).partition(" Last error:")[0]
            raise InputError(
                f"the weights {architecture}/{tag} are not on this machine and cannot be fetched ({reason}). "
                f"Without a network give a local checkpoint: open_clip:{architecture}/path/to/checkpoint."
            ) from error
    # The activation is the tag's: OpenAI's weights in a GELU model would silently give other features.
    model_cfg = {**_model_cfg(architecture), "quick_gelu": bool(tag_cfg.get("quick_gelu", False))}
    return Checkpoint(architecture, model_cfg, _preprocess(tag_cfg), Path(weights))


def _cached(tag_cfg: dict[str, Any]) -> str | None:
    """Weights that an earlier download left in the Hugging Face cache, found without asking the network."""
    repository, _, name = tag_cfg.get("hf_hub", "").rpartition("/")
    if not repository:
        return None
    names = (
        [str(Path(name).with_suffix(".safetensors")), name]
        if name
        else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    )
    found = (try_to_load_from_cache(repository, name) for name in names)
    return next((path for path in found if isinstance(path, str)), None)


def require_network() -> None:
    """Raise `OSError` at once where the hub's name does not resolve; its client would retry for a minute."""
    host = urlsplit(huggingface_hub.constants.ENDPOINT).hostname
    if host and not getproxies():
        socket.getaddrinfo(host, 443)


def _usual_preprocess(architecture: str) -> dict[str, Any]:
    """What all published checkpoints of the architecture share, else open_clip's default with a warning."""
    published = [
        _preprocess(get_pretrained_cfg(architecture, tag))
        for tag in list_pretrained_tags_by_model(architecture)
    ]
    if published and all(preprocess == published[0] for preprocess in published):
        return published[0]
    if published:
        log.warning(
            "published checkpoints of %s differ in preprocessing; taking OpenAI's. If that is not the "
            "checkpoint's, say so in %s beside it.",
            architecture,
            SIDECAR,
        )
    return _preprocess({})


def _preprocess(overrides: dict[str, Any]) -> dict[str, Any]:
    merged = merge_preprocess_dict(PreprocessCfg(), overrides)
    merged.pop("size")
    return merged


def _model_cfg(architecture: str) -> dict[str, Any]:
    model_cfg = open_clip.get_model_config(architecture) if architecture in open_clip.list_models() else None
    if model_cfg is None:
        nearest = difflib.get_close_matches(architecture, open_clip.list_models(), n=3, cutoff=0.4)
        raise InputError(
            f"open_clip knows no architecture '{architecture}'; nearest: {', '.join(nearest) or 'none'}. "
            f"For one of your own, put {SIDECAR} beside its checkpoint."
        )
    return model_cfg


def _tags_of(architecture: str, wanted: str = "") -> str:
    tags = list_pretrained_tags_by_model(architecture)
    if not tags:
        _model_cfg(architecture)
        return f"{architecture} has no published weights."
    nearest = difflib.get_close_matches(wanted, tags, n=1, cutoff=0.4)
    return f"Tags of {architecture}: {', '.join(tags)}." + (f" Nearest: {nearest[0]}." if nearest else "")


def _weights_in(folder: Path) -> Path:
    for name in FOLDER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: no checkpoint in this folder; expected one of {FOLDER_WEIGHTS}")


def first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
