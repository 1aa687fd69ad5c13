"""What a config asks of the vectors, and whether a store was made with that."""

from __future__ import annotations

from typing import Any

from ...features.config import ExtractConfig
from ...features.errors import InputError
from ...features.store import FeatureStore
from ..encoders import weights_request

_EFFORT = (  # how, not what
    *("device", "batch_size", "shard_rows", "workers", "actors", "decode_seconds", "decode_memory_mb"),
    "max_failures",
    *("min_similarity", "similarity_floor", "max_below_floor", "max_mismatched"),
)


def request_of(config: ExtractConfig) -> dict[str, Any]:
    """What a config asks of the vectors, JSON-able; known without loading the encoder."""
    asked = config.model_dump(mode="json", exclude=set(_EFFORT))
    asked["foreign"] = sorted(asked["foreign"])
    return {**asked, **weights_request(config)}


def check_made_for(store: FeatureStore, config: ExtractConfig) -> None:
    """InputError when the store was extracted with other settings than `config` asks for."""
    # A key that the store does not know came after it; its default is what the store was made with.
    made = {**request_of(ExtractConfig()), **store.manifest["stats"]["request"]}
    asked = request_of(config)
    differing = [key for key in asked if made.get(key) != asked[key]]
    if differing:
        what = ", ".join(f"{key} = {made.get(key)!r} (config: {asked[key]!r})" for key in differing)
        raise InputError(f"{store.folder} was extracted with {what}; run `mmrec extract` first")
