"""timm's image models: architecture, weights and preprocessing of a name."""

from __future__ import annotations

import difflib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import timm
from huggingface_hub import try_to_load_from_cache
from timm.models import PretrainedCfg, load_state_dict

from ..errors import InputError
from ..files import write_json
from .checkpoints import UNREADABLE, first_lines, require_network
from .registry import TIMM_SIDECAR
from .state_dicts import write_state

log = logging.getLogger(__name__)

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in a folder or on the hub, as timm saves them


class TimmModel(NamedTuple):
    """A model of timm without its classifier, and the options it was built with besides its name."""

    module: Any
    options: dict[str, Any]


def load_timm(name: str, image_size: int | None = None) -> TimmModel:
    """The model of "MODEL", whose weights are timm's own, or of "MODEL/path/to/checkpoint".

    In fp32 on the CPU, in evaluation mode, without its classifier: it gives pooled features. `image_size`
    interpolates the positions of models that have them. Raises `InputError` for an unknown model and for
    weights that are out of reach or another model's, `FileNotFoundError` for a path that is not there.
    """
    architecture, _, rest = name.partition("/")
    _check_known(architecture)
    options: dict[str, Any] = {}
    if image_size is not None and _described(architecture).fixed_input_size:
        options["img_size"] = image_size  # the others take any size as they are
    model = _local(architecture, Path(rest), options) if rest else _published(architecture, options)
    return model._replace(module=model.module.eval().requires_grad_(False))


def write_timm(
    folder: Path, architecture: str, module: Any, options: dict[str, Any], preprocessing: dict[str, Any]
) -> None:
    """Write a model without classifier so that `load_timm` finds it in the folder: weights last."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architecture": architecture, "model_args": options, "pretrained_cfg": preprocessing}
    write_json(folder / TIMM_SIDECAR, config)
    write_state(folder / _WEIGHTS[0], module)


def _weights_in(path: Path) -> Path:
    """The file of weights that `path` is or holds, or would hold."""
    if not path.is_dir():
        return path
    return next((path / name for name in _WEIGHTS if (path / name).is_file()), path / _WEIGHTS[0])


def _local(architecture: str, path: Path, options: dict[str, Any]) -> TimmModel:
    weights = _weights_in(path)
    if not weights.is_file():
        raise FileNotFoundError(f"checkpoint {weights} of timm's {architecture}: no such file")
    published = _sidecar(architecture, weights)
    described = {**_described(architecture).to_dict(), **published.get("pretrained_cfg", {})}
    options = {**published.get("model_args", {}), **options}
    try:
        state = load_state_dict(str(weights))
        # The classifier is loaded as it is and then dropped: without one, timm would let keys be missing.
        described |= {"num_classes": _classes(state, described), "label_offset": 0}
        module: Any = timm.create_model(
            architecture,
            pretrained=True,
            pretrained_cfg=described,
            pretrained_cfg_overlay={"file": str(weights), "custom_load": False},
            **{**options, "num_classes": described["num_classes"]},
        )
    except (*UNREADABLE, AssertionError) as error:
        raise InputError(
            f"{weights} holds no weights of timm's {architecture}: {first_lines(error)}. Expected "
            "safetensors or a state dict saved by torch, of exactly this model; what its name does not say "
            f"stands in {TIMM_SIDECAR} beside it, as timm saves it."
        ) from error
    module.reset_classifier(0)
    return TimmModel(module, options)


def _classes(state: dict[str, Any], described: dict[str, Any]) -> int:
    """Outputs of the classifier that is saved with the weights, 0 without one."""
    names = described.get("classifier") or ()
    names = (names,) if isinstance(names, str) else names
    saved = [state[f"{name}.weight"] for name in names if f"{name}.weight" in state]
    return len(saved[0]) if saved else 0


def _sidecar(architecture: str, weights: Path) -> dict[str, Any]:
    """timm's own description beside the weights; empty without one."""
    path = weights.with_name(TIMM_SIDECAR)
    if not path.is_file():
        return {}
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        named = described["architecture"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a timm config with an 'architecture' ({error!r})") from error
    if named != architecture.partition(".")[0]:
        raise InputError(f"{path} describes {named}; name the encoder 'timm:{named}/{weights}'")
    log.info("%s: preprocessing taken from %s", weights.name, path)
    return described


def _published(architecture: str, options: dict[str, Any]) -> TimmModel:
    described = _described(architecture)
    if not described.has_weights:
        raise InputError(
            f"timm has no weights of {architecture}; give a local checkpoint, "
            f"timm:{architecture}/path/to/checkpoint, or one of its tags: {_tags(architecture)}"
        )
    cached = _cached(described)
    overlay = {"file": cached} if cached else {}
    if not cached:
        log.info("fetching the weights of timm's %s", architecture)
    try:
        if not cached:
            require_network()
        module = timm.create_model(
            architecture, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options
        )
        return TimmModel(module, options)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"timm's weights of {architecture} are not on this machine and cannot be fetched "
            f"({first_lines(error)}). Without a network give a local checkpoint: "
            f"timm:{architecture}/path/to/checkpoint."
        ) from error


def _described(architecture: str) -> PretrainedCfg:
    return timm.get_pretrained_cfg(architecture) or PretrainedCfg()


def _cached(described: PretrainedCfg) -> str | None:
    """Weights that an earlier download left in the Hugging Face cache, found without asking the network."""
    if not described.hf_hub_id or described.custom_load:
        return None
    names = [described.hf_hub_filename] if described.hf_hub_filename else _WEIGHTS
    found = (try_to_load_from_cache(described.hf_hub_id, name) for name in names)
    return next((path for path in found if isinstance(path, str)), None)


def _check_known(architecture: str) -> None:
    plain, _, tag = architecture.partition(".")
    if not timm.is_model(plain):
        nearest = difflib.get_close_matches(plain, timm.list_models(), n=3, cutoff=0.4)
        raise InputError(f"timm knows no model '{plain}'; nearest: {', '.join(nearest) or 'none'}.")
    if tag and architecture not in timm.list_pretrained(f"{plain}.*"):
        raise InputError(f"timm's {plain} has no tag '{tag}'; it has {_tags(plain)}.")


def _tags(architecture: str) -> str:
    plain = architecture.partition(".")[0]
    return ", ".join(timm.list_pretrained(f"{plain}.*")) or "none"
