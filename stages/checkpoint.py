"""Training checkpoints in one safetensors file: atomic, and ignored by other runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..features.files import atomic_path
from ..features.tensors import save_tensors

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


class FileCheckpoint:
    """Keeps the latest state of one training run, known by `key` (what the run is made from)."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"key": self.key, "state": json.dumps(state)}
        with atomic_path(self.path) as temporary:
            save_tensors(temporary, tensors, metadata)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The saved state, or None where there is none for this run."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    log.info("%s belongs to other data or settings; training starts afresh", self.path)
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, json.loads(metadata["state"])
        except (SafetensorError, ValueError, KeyError) as error:
            log.warning("%s is damaged (%s); training starts afresh", self.path, error)
            return None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
