"""The loop of pre-training: AdamW over all processes, held-out items after every epoch, exact resume."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..features.encoders.beit3_model import Beit3
from ..features.pretraining.config import AlignConfig
from ..features.pretraining.items import Batch, draw_batch, epoch_batches, held_out_generator, step_generator
from ..features.pretraining.model import parameter_groups
from ..features.pretraining.objectives import Objectives
from ..features.pretraining.retrieval import retrieval
from ..recsys.errors import DivergedError, InputError
from ..recsys.team import Team
from .checkpoint import FileCheckpoint

log = logging.getLogger(__name__)

BETAS, EPSILON = (0.9, 0.98), 1e-6  # of AdamW, as BEiT-3's pre-training has them
Record = dict[str, Any]


@dataclass(slots=True)
class Progress:
    """What is known about a run besides tensors; JSON-able."""

    epoch: int = 0  # epochs done
    step: int = 0  # steps done in the epoch after these
    sums: dict[str, list[float]] = field(default_factory=dict)  # of the epoch: loss -> its sum and its steps
    best_epoch: int = 0
    best_loss: float = math.inf
    stale: int = 0  # epochs since the best
    history: list[Record] = field(default_factory=list)


class Pretraining:
    """A run between two steps. All processes of a team hold one with equal parameters and progress."""

    def __init__(
        self,
        model: Beit3,
        objectives: Objectives,
        train_rows: np.ndarray,
        held_out_rows: np.ndarray,
        team: Team,
    ) -> None:
        self.model, self.objectives, self.team = model, objectives, team
        self.config: AlignConfig = objectives.config
        self.train_rows, self.held_out_rows = train_rows, held_out_rows
        self.steps_per_epoch = -(-len(train_rows) // self.config.batch_size)
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups = parameter_groups(model, self.config.weight_decay)
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)
        self.best: dict[str, Tensor] = {}  # the model of the best epoch, where patience asks for one
        self.progress = Progress()

    @property
    def finished(self) -> bool:
        stale, patience = self.progress.stale, self.config.patience
        return self.progress.epoch >= self.config.epochs or (patience is not None and stale >= patience)

    @property
    def steps_done(self) -> int:
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    def run(self, checkpoint: FileCheckpoint, advance: Callable[..., None]) -> None:
        """Go on from the checkpoint to the end; `advance` is told of each step, or of those done before."""
        saved = self.team.give(checkpoint.load() if self.team.leads else None)
        if saved is not None:
            self.restore(*saved)
            log.info("pre-training goes on after step %d", self.steps_done)
            advance(self.steps_done)
        else:
            self.team.align(self.model.state_dict().values())
            self.progress.history.append({"epoch": 0, **self._measured()})
        last_save = time.monotonic()
        while not self.finished:
            self.step()
            advance()
            if self.progress.step == self.steps_per_epoch:
                self._end_epoch()
            if self.team.leads and time.monotonic() - last_save >= self.config.checkpoint_every:
                checkpoint.save(*self.state())
                last_save = time.monotonic()
        if self.best:
            self.model.load_state_dict(self.best)

    def step(self) -> None:
        """One step on one batch; DivergedError where its loss or gradient is not finite."""
        config, progress = self.config, self.progress
        self.model.train()
        epoch = progress.epoch + 1
        rows = epoch_batches(self.train_rows, config.batch_size, config.seed, epoch)[progress.step]
        batch = self._draw(rows, step_generator(config.seed, epoch, progress.step))
        totals = self.objectives.totals(batch)
        parts = dict.fromkeys(totals, 0.0)
        for piece in np.array_split(np.arange(len(batch)), config.accumulate):
            own = _share(len(piece), self.team)
            for losses in self.objectives.losses(self.model, batch.part(piece), own, totals, self.team.sum):
                self._weighted(losses).backward()
                for name, loss in losses.items():
                    parts[name] += float(loss.detach())
        for parameter in self.named.values():  # an expert without an input here may have one elsewhere
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.team.sum_gradients(list(self.named.values()), [])
        values = self.team.sum(torch.tensor(list(parts.values()), dtype=torch.float64, device=self._device))
        norm = torch.nn.utils.clip_grad_norm_(self.named.values(), config.clip)
        self._check_finite({**dict(zip(parts, values.tolist(), strict=True)), "gradient norm": float(norm)})
        for group in self.adam.param_groups:
            group["lr"] = learning_rate(self.steps_done, config.epochs * self.steps_per_epoch, config)
        self.adam.step()
        self.adam.zero_grad()
        for name, value in zip(parts, values.tolist(), strict=True):
            total, steps = progress.sums.get(name, (0.0, 0))
            progress.sums[name] = [total + value, steps + 1]
        progress.step += 1

    def _draw(self, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        """The masks of a whole batch, the same in all processes."""
        return draw_batch(self.objectives.items, rows, self.model.config.grid, self.config, rng)

    def _weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        weights = self.config.objectives.model_dump()
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()

    def _check_finite(self, figures: Mapping[str, float]) -> None:
        if all(map(math.isfinite, figures.values())):
            return
        found = ", ".join(f"{name} {value:g}" for name, value in figures.items())
        raise DivergedError(
            f"pre-training diverged after {self.steps_done} steps ({found}). Try an align.learning_rate "
            f"below {self.config.learning_rate:g}, or a longer align.warmup."
        )

    def _end_epoch(self) -> None:
        """Measure the epoch, keep the model if it is the best so far, and begin the next."""
        progress, weights = self.progress, self.config.objectives.model_dump()
        means = {name: total / steps for name, (total, steps) in progress.sums.items()}
        loss = sum(weights[name] * mean for name, mean in means.items())
        measured = self._measured()
        self._check_finite({f"held-out {name}": value for name, value in measured["held_out"].items()})
        progress.epoch += 1
        progress.step, progress.sums = 0, {}
        progress.history.append({"epoch": progress.epoch, "loss": loss, **means, **measured})
        log.info("%s", _line(progress.history[-1]))
        if measured["held_out"]["loss"] < progress.best_loss:
            progress.best_epoch, progress.best_loss = progress.epoch, measured["held_out"]["loss"]
            progress.stale = 0
            if self.config.patience is not None:
                self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        else:
            progress.stale += 1

    def _measured(self) -> Record:
        """Losses and retrieval on the held-out items, masked as ever; the leader computes them."""
        return self.team.decide(self._measure)

    @torch.inference_mode()
    def _measure(self) -> Record:
        self.model.eval()
        config, rows = self.config, self.held_out_rows
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for number, start in enumerate(range(0, len(rows), config.batch_size)):
            generator = held_out_generator(config.seed, number)
            batch = self._draw(rows[start : start + config.batch_size], generator)
            totals = self.objectives.totals(batch)
            everything = slice(0, len(batch))
            for losses in self.objectives.losses(self.model, batch, everything, totals, lambda own: own):
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(loss) * totals[name]
                    counts[name] = counts.get(name, 0) + totals[name]
        means = {name: total / counts[name] for name, total in sums.items()}
        weights = config.objectives.model_dump()
        loss = sum(weights[name] * mean for name, mean in means.items())
        found = retrieval(self.model, self.objectives, rows, config.batch_size)
        return {"held_out": {"loss": loss, **means}, "retrieval": found}

    @property
    def _device(self) -> torch.device:
        return self.objectives.device

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and a JSON-able rest, from which `restore` goes on exactly; masks follow from the step."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.named.items():
            tensors |= {f"adam.{key}.{name}": value for key, value in self.adam.state[parameter].items()}
        return tensors, asdict(self.progress)

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go back to `state`; InputError when it is of another model."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "adam": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = value.to(self._device)
        shapes = {name: value.shape for name, value in self.model.state_dict().items()}
        if {name: value.shape for name, value in groups["model"].items()} != shapes:
            raise InputError("the checkpoint is of a model with other parameters; remove it to train afresh")
        self.model.load_state_dict(groups["model"])
        self.best = groups["best"]
        for name, value in groups["adam"].items():
            key, _, parameter = name.partition(".")
            self.adam.state[self.named[parameter]][key] = value
        self.progress = Progress(**state)


def learning_rate(step: int, total: int, config: AlignConfig) -> float:
    """Of step 0, 1, ... `total` - 1: rising linearly at first, then half a cosine that ends at 0."""
    rising = round(config.warmup * total)
    if step < rising:
        return config.learning_rate * (step + 1) / rising
    return config.learning_rate * (1 + math.cos(math.pi * (step - rising) / max(total - rising, 1))) / 2


def _share(n: int, team: Team) -> slice:
    """The items of a piece that are this process's."""
    return slice(n * team.rank // team.size, n * (team.rank + 1) // team.size)


def _line(record: Record) -> str:
    """An epoch in one line of the log."""
    held_out = ", ".join(f"{name} {value:.4f}" for name, value in record["held_out"].items())
    found = ", ".join(f"{name} {value:.4f}" for name, value in record["retrieval"].items())
    return f"epoch {record['epoch']}: loss {record['loss']:.4f}; held out: {held_out}" + (
        f"; {found}" if found else ""
    )
