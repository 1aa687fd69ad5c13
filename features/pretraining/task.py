"""What a training loop asks of what is trained, and pre-training as such a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..encoders.beit3_model import Beit3
from .config import AlignConfig
from .contrast import Gather
from .items import Batch, draw_batch
from .model import parameter_groups
from .objectives import Objectives
from .retrieval import retrieval


class Schedule(Protocol):
    """The settings that the loop goes by; `AlignConfig` says what they mean."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def clip(self) -> float: ...
    @property
    def patience(self) -> int | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def checkpoint_every(self) -> float: ...


class Part(Protocol):
    """Items of a step, or some of them."""

    def __len__(self) -> int: ...
    def part(self, chosen: slice | np.ndarray) -> Any: ...


class Task(Protocol):
    """A module and what it learns from the rows of items."""

    @property
    def name(self) -> str:
        """The section of its settings."""
        ...

    @property
    def module(self) -> nn.Module: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def weights(self) -> Mapping[str, float]:
        """Of the losses, by name."""
        ...

    @property
    def device(self) -> torch.device: ...

    def groups(self) -> list[dict[str, Any]]:
        """Trained parameters for AdamW; a group's `rate` is its share of the learning rate, 1 by default."""
        ...

    def begin(self) -> None:
        """Put the module into training mode for a step."""
        ...

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> Part:
        """A batch of these items with all that chance decides."""
        ...

    def totals(self, batch: Any) -> dict[str, int]:
        """How many predictions the mean of each loss is over."""
        ...

    def losses(
        self, batch: Any, own: slice, totals: dict[str, int], gather: Gather
    ) -> Iterator[dict[str, Tensor]]:
        """Pass by pass, the shares of the means that the items `own` of `batch` have; each can be followed
        back before the next is computed."""
        ...

    def settle(self) -> None:
        """Keep parameters within their bounds after a step."""
        ...

    def retrieval(self, rows: np.ndarray) -> dict[str, float]:
        """How well images and texts of these items find each other; see `retrieval`."""
        ...

    def badness(self, measured: Mapping[str, Any]) -> float:
        """What early stopping wants to be small, of the losses and the retrieval of an epoch."""
        ...


@dataclass(frozen=True, slots=True)
class AlignTask:
    """Pre-training by `objectives`."""

    module: Beit3
    objectives: Objectives
    name: str = "align"

    @property
    def schedule(self) -> AlignConfig:
        return self.objectives.config

    @property
    def weights(self) -> Mapping[str, float]:
        return self.schedule.objectives.model_dump()

    @property
    def device(self) -> torch.device:
        return self.objectives.device

    def groups(self) -> list[dict[str, Any]]:
        return parameter_groups(self.module, self.schedule.weight_decay)

    def begin(self) -> None:
        self.module.train()

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        return draw_batch(self.objectives.items, rows, self.module.config.grid, self.schedule, rng)

    def totals(self, batch: Batch) -> dict[str, int]:
        return self.objectives.totals(batch)

    def losses(
        self, batch: Batch, own: slice, totals: dict[str, int], gather: Gather
    ) -> Iterator[dict[str, Tensor]]:
        return self.objectives.losses(self.module, batch, own, totals, gather)

    def settle(self) -> None:
        pass

    def retrieval(self, rows: np.ndarray) -> dict[str, float]:
        def vectors(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
            return self.objectives.vectors(self.module, chosen)

        return retrieval(vectors, self.objectives.items, rows, self.schedule.batch_size)

    def badness(self, measured: Mapping[str, Any]) -> float:
        return measured["held_out"]["loss"]
