"""The recommenders by name. Light to import: a model's module (and torch) loads when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ..errors import InputError, did_you_mean

if TYPE_CHECKING:
    from .base import ClosedFormModel, GradientModel

MODELS: dict[str, str] = {
    "popularity": "popularity:Popularity",
    "itemknn": "itemknn:ItemKNN",
    "ease": "ease:EASE",
    "bpr": "bpr:BPR",
    "lightgcn": "lightgcn:LightGCN",
    "vbpr": "vbpr:VBPR",
    "freedom": "freedom:FREEDOM",
    "grcn": "grcn:GRCN",
    "mmgcn": "mmgcn:MMGCN",
    "slmrec": "slmrec:SLMRec",
    "mmgcl": "mmgcl:MMGCL",
    "bm3": "bm3:BM3",
    "lattice": "lattice:LATTICE",
    "mgcn": "mgcn:MGCN",
    "alignrec": "alignrec:AlignRec",
}


def model_class(name: str) -> type[GradientModel] | type[ClosedFormModel]:
    """The class of the model called `name`; InputError with the nearest name when there is none."""
    if name not in MODELS:
        raise InputError(f"unknown model '{name}'{did_you_mean(name, MODELS)}; known: {', '.join(MODELS)}")
    module, _, attribute = MODELS[name].partition(":")
    return getattr(import_module(f".{module}", __name__), attribute)


def validate_options(name: str, raw: dict[str, Any]) -> BaseModel:
    """The checked options of model `name` from its raw table; InputError names every bad key at once."""
    options = model_class(name).Options
    try:
        return options.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(_problem(detail, options) for detail in error.errors())
        raise InputError(f"[train.{name}] {problems}") from None


def _problem(detail: Any, options: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = list(options.model_fields)
        return f"unknown key '{key}'{did_you_mean(key, known)}; known: {', '.join(known) or 'none'}"
    return f"{key}: {detail['msg']}, got {detail['input']!r}" if key else str(detail["msg"])
