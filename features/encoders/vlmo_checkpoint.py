"""VLMo checkpoints: the official layout read strictly, sizes told by the tensors; and the same written."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from torch import Tensor

from ..errors import InputError, first_line
from ..files import atomic_path, write_json
from .checkpoints import require_network
from .multiway import resize_patch_rows
from .registry import VLMO_SIDECAR, VLMO_VOCABULARY, VLMO_WEIGHTS
from .relative_positions import resize_distances, table_rows
from .state_dicts import (
    check_keys,
    layer_numbers,
    read_settings,
    read_state,
    shape_of,
    weights_file,
    write_state,
)
from .vlmo_config import PUBLISHED_WINDOW, VlmoConfig
from .vlmo_model import Vlmo

log = logging.getLogger(__name__)

KIND = "VLMo"
NESTINGS = ("state_dict", "module", "model")  # keys of a checkpoint under which its state dict may lie
NOT_WEIGHTS = {  # indices that some versions save: the sizes say them
    "relative_position_index",
    "text_relative_position_index",
    "text_imag_relative_position_index",
    "text_embeddings.position_ids",
}
HEAD_WIDTH = 64  # of an attention head in the official models of other widths than these:
HEADS_OF_WIDTH = {544: 16}  # base-plus
VOCABULARY_ON_HUB = ("google-bert/bert-base-uncased", "vocab.txt")
_TABLE, _POSITIONS = "relative_position_bias_table", "transformer.pos_embed"
_BLOCK = r"transformer\.blocks\.(\d+)\."


@dataclass(frozen=True, slots=True)
class VlmoFiles:
    """The files of a VLMo on this disk, and what its tensors cannot say."""

    weights: Path
    tokenizer: Path
    context_length: int | None  # tokens of a text; None: the usual number


def find_vlmo(name: str) -> VlmoFiles:
    """The files of "path/to/checkpoint.pt", or of a folder that `write_vlmo` wrote.

    Raises FileNotFoundError for a missing checkpoint, InputError where no vocabulary lies beside it nor can
    be fetched.
    """
    weights = weights_file(Path(name), VLMO_WEIGHTS, KIND)
    return VlmoFiles(weights, _vocabulary(weights), _settings(weights).get("context_length"))


def load_vlmo(path: Path, image_size: int | None = None) -> Vlmo:
    """The checkpoint with the heads that it has, in float32 on the CPU and evaluation mode.

    `image_size` other than the checkpoint's interpolates the patches' positions, or the biases of their
    distances. Where the tensors do not say the number of attention heads (absolute positions) or the image
    size (tables for texts of other than 196 tokens), `vlmo_config.json` beside the file does.
    Raises FileNotFoundError, and InputError for a file that is no VLMo, naming the keys that differ.
    """
    weights = weights_file(path, VLMO_WEIGHTS, KIND)
    state = read_state(weights, NESTINGS)
    state = {key: tensor for key, tensor in state.items() if key not in NOT_WEIGHTS}
    config = _infer_config(weights, state, _settings(weights))
    with torch.device("meta"):
        model = Vlmo(config)
    check_keys(weights, state, model.state_dict(), KIND)
    if image_size is not None and image_size != config.image_size:
        config = _resize(state, config, image_size)
        with torch.device("meta"):
            model = Vlmo(config)
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
    return model.eval()


def write_vlmo(folder: Path, model: Vlmo, vocabulary: Path, context_length: int) -> None:
    """Write the model so that `vlmo:FOLDER` loads it: vocabulary and settings first, weights last."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / VLMO_VOCABULARY) as unfinished:
        shutil.copyfile(vocabulary, unfinished)
    config = model.config
    settings = {"heads": config.heads, "image_size": config.image_size, "context_length": context_length}
    write_json(folder / VLMO_SIDECAR, settings)
    write_state(folder / VLMO_WEIGHTS, model)


def _vocabulary(weights: Path) -> Path:
    """The word pieces beside the weights, else those of BERT from the hub, kept in its cache."""
    beside = weights.with_name(VLMO_VOCABULARY)
    if beside.is_file():
        return beside
    cached = try_to_load_from_cache(*VOCABULARY_ON_HUB)
    if isinstance(cached, str):
        return Path(cached)
    log.info("%s: no %s beside it; fetching that of %s", weights, VLMO_VOCABULARY, VOCABULARY_ON_HUB[0])
    try:
        require_network()
        return Path(hf_hub_download(*VOCABULARY_ON_HUB))
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{weights}: expected BERT's vocabulary beside it as {VLMO_VOCABULARY}; there is none, and that "
            f"of {VOCABULARY_ON_HUB[0]} cannot be fetched ({first_line(error)})"
        ) from error


def _settings(weights: Path) -> dict[str, int]:
    return read_settings(weights.with_name(VLMO_SIDECAR), ("heads", "image_size", "context_length"))


def _infer_config(weights: Path, state: dict[str, Tensor], settings: dict[str, int]) -> VlmoConfig:
    """The sizes that the tensors' shapes tell; what is missing or misshapen is left to `check_keys`."""

    def shape(key: str, n_axes: int) -> torch.Size:
        return shape_of(weights, state, key, n_axes, KIND)

    def has(*keys: str) -> bool:
        return not state.keys().isdisjoint(keys)

    width, _, patch_size, _ = shape("transformer.patch_embed.proj.weight", 4)
    layers = max(layer_numbers(state, _BLOCK), default=0) + 1
    sizes: dict[str, Any] = {
        "width": width,
        "layers": layers,
        "hidden": shape("transformer.blocks.0.mlp_text.fc1.weight", 2)[0],
        "vl_start": min(layer_numbers(state, _BLOCK + r"(?:mlp|norm2)_vl\."), default=layers),
        "vocabulary": shape("text_embeddings.word_embeddings.weight", 2)[0],
        "patch_size": patch_size,
        "max_text": shape("text_embeddings.position_embeddings.weight", 2)[0],
        "relative": _TABLE in state,
        "layer_scale": has("transformer.blocks.0.gamma_1", "transformer.blocks.0.gamma_2"),
        "itc_heads": has("itc_text_proj.fc.weight", "itc_image_proj.fc.weight", "logit_scale"),
        "vl_itc_heads": has("itc_vl_text_proj.fc.weight", "itc_vl_image_proj.fc.weight", "logit_vl_scale"),
        "itm_head": has("itm_score.fc.weight", "itm_score.fc.bias"),
        "mlm_head": has("mlm_score.decoder.weight", "mlm_score.bias"),
    }
    if _TABLE in state:
        rows, columns = shape(_TABLE, 2)
        sizes |= _window(weights, rows, patch_size, settings.get("image_size"))
        sizes["heads"] = settings.get("heads") or columns // layers
    else:
        side = _side(weights, shape(_POSITIONS, 3)[1] - 1)
        sizes["image_size"] = settings.get("image_size") or side * patch_size
        sizes["heads"] = settings.get("heads") or _usual_heads(weights, width)
    try:
        return VlmoConfig(**sizes)
    except ValueError as error:
        raise InputError(f"{weights}: {error}") from error


def _window(weights: Path, rows: int, patch_size: int, image_size: int | None) -> dict[str, int]:
    """The image and the longest text that a table of so many rows is for."""
    if image_size is not None:
        grid = image_size // patch_size
        text_rows = rows - table_rows(grid, 0)
        if text_rows < 4 or text_rows % 2:
            raise InputError(
                f"{weights}: '{_TABLE}' has {rows} rows; expected {table_rows(grid, 0)} for {image_size} "
                f"pixels, as {VLMO_SIDECAR} says, and an even number for texts"
            )
        return {"image_size": image_size, "text_window": text_rows // 2}
    distances = rows - table_rows(1, PUBLISHED_WINDOW) + 1
    side = math.isqrt(max(distances, 0))
    if side**2 != distances or side % 2 == 0:
        raise InputError(
            f"{weights}: '{_TABLE}' has {rows} rows; expected {rows - distances} and one for each distance "
            f'in a square of patches; for other texts put {{"image_size": n}} into {VLMO_SIDECAR} beside it'
        )
    return {"image_size": (side + 1) // 2 * patch_size, "text_window": PUBLISHED_WINDOW}


def _side(weights: Path, n_patches: int) -> int:
    side = math.isqrt(max(n_patches, 0))
    if side < 1 or side**2 != n_patches:
        raise InputError(
            f"{weights}: '{_POSITIONS}' has {n_patches + 1} rows; expected 1 and one for each patch of a "
            "square image"
        )
    return side


def _usual_heads(weights: Path, width: int) -> int:
    if width not in HEADS_OF_WIDTH and width % HEAD_WIDTH:
        raise InputError(
            f"{weights}: a width of {width} does not tell how many attention heads there are; "
            f'put {{"heads": n}} into {VLMO_SIDECAR} beside it'
        )
    return HEADS_OF_WIDTH.get(width, width // HEAD_WIDTH)


def _resize(state: dict[str, Tensor], config: VlmoConfig, image_size: int) -> VlmoConfig:
    """The config for another image size; the positions in `state` become those of its patches."""
    try:
        resized = dataclasses.replace(config, image_size=image_size)
    except ValueError as error:
        raise InputError(f"image_size: {error}") from error
    if config.relative:
        state[_TABLE] = resize_distances(state[_TABLE], config.grid, resized.grid)
    else:
        rows = state[_POSITIONS][0]
        state[_POSITIONS] = torch.cat([rows[:1], resize_patch_rows(rows[1:], resized.grid)])[None]
    return resized
