"""The loop that trains an encoder: AdamW over all processes, held-out items every epoch, exact resume."""

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

from ..features.pretraining.items import epoch_batches, held_out_generator, step_generator
from ..features.pretraining.task import Schedule, Task
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
    best: float = math.inf  # its badness
    stale: int = 0  # epochs since the best
    history: list[Record] = field(default_factory=list)
    tested: list[dict[str, float]] = field(default_factory=list)  # retrieval before and after


class EncoderTraining:
    """A run between two steps. All processes of a team hold one with equal parameters and progress.

    What is measured on `held_out_rows` after every epoch decides when it stops, and what it keeps; what is
    measured on `test_rows`, before and after, decides nothing.
    """

    def __init__(
        self,
        task: Task,
        train_rows: np.ndarray,
        held_out_rows: np.ndarray,
        team: Team,
        test_rows: np.ndarray | None = None,
    ) -> None:
        self.task, self.team, self.schedule = task, team, task.schedule
        self.train_rows, self.held_out_rows, self.test_rows = train_rows, held_out_rows, test_rows
        self.steps_per_epoch = -(-len(train_rows) // self.schedule.batch_size)
        self.named = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
        self.adam = torch.optim.AdamW(task.groups(), lr=0.0, betas=BETAS, eps=EPSILON, fused=True)
        self.best: dict[str, Tensor] = {}  # trained parameters of the best epoch, where patience asks for one
        self.progress = Progress()

    @property
    def finished(self) -> bool:
        stale, patience = self.progress.stale, self.schedule.patience
        return self.progress.epoch >= self.schedule.epochs or (patience is not None and stale >= patience)

    @property
    def steps_done(self) -> int:
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    def run(self, checkpoint: FileCheckpoint, advance: Callable[..., None]) -> None:
        """Go on from the checkpoint to the end; `advance` is told of each step, or of those done before."""
        saved = self.team.give(checkpoint.load() if self.team.leads else None)
        if saved is not None:
            self.restore(*saved)
            log.info("%s goes on after step %d", self.task.name, self.steps_done)
            advance(self.steps_done)
        else:
            self.team.align(self.task.module.state_dict().values())
            self.progress.history.append({"epoch": 0, **self._measured()})
            self._test()
        last_save = time.monotonic()
        while not self.finished:
            self.step()
            advance()
            if self.progress.step == self.steps_per_epoch:
                self._end_epoch()
            if self.team.leads and time.monotonic() - last_save >= self.schedule.checkpoint_every:
                checkpoint.save(*self.state())
                last_save = time.monotonic()
        if self.best:
            self._load(self.best)
        self._test()

    def step(self) -> None:
        """One step on one batch; DivergedError where its loss or gradient is not finite."""
        config, progress, task = self.schedule, self.progress, self.task
        task.begin()
        epoch = progress.epoch + 1
        rows = epoch_batches(self.train_rows, config.batch_size, config.seed, epoch)[progress.step]
        generator = step_generator(config.seed, epoch, progress.step)
        batch = task.draw(rows, generator)
        # Of dropout, which no checkpoint has to keep, and which differs from process to process.
        torch.manual_seed(int(generator.integers(2**62)) + self.team.rank)
        totals = task.totals(batch)
        parts = dict.fromkeys(totals, 0.0)
        for piece in np.array_split(np.arange(len(batch)), config.accumulate):
            own = _share(len(piece), self.team)
            for losses in task.losses(batch.part(piece), own, totals, self.team.sum):
                self._weighted(losses).backward()
                for name, loss in losses.items():
                    parts[name] += float(loss.detach())
        self.team.sum_gradients(self.team.reached(list(self.named.values())), [])
        values = self.team.sum(
            torch.tensor(list(parts.values()), dtype=torch.float64, device=self.task.device)
        )
        norm = torch.nn.utils.clip_grad_norm_(self.named.values(), config.clip)
        self._check_finite({**dict(zip(parts, values.tolist(), strict=True)), "gradient norm": float(norm)})
        for group in self.adam.param_groups:
            rate = learning_rate(self.steps_done, config.epochs * self.steps_per_epoch, config)
            group["lr"] = rate * group.get("rate", 1.0)
        self.adam.step()
        self.adam.zero_grad()
        task.settle()
        for name, value in zip(parts, values.tolist(), strict=True):
            total, steps = progress.sums.get(name, (0.0, 0))
            progress.sums[name] = [total + value, steps + 1]
        progress.step += 1

    def _weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        weights = self.task.weights
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()

    def _check_finite(self, figures: Mapping[str, float]) -> None:
        if all(map(math.isfinite, figures.values())):
            return
        found = ", ".join(f"{name} {value:g}" for name, value in figures.items())
        raise DivergedError(
            f"training diverged after {self.steps_done} steps ({found}). Try a lower "
            f"{self.task.name}.learning_rate than {self.schedule.learning_rate:g}, or a longer "
            f"{self.task.name}.warmup."
        )

    def _end_epoch(self) -> None:
        """Measure the epoch, keep the model if it is the best so far, and begin the next."""
        progress, weights = self.progress, self.task.weights
        means = {name: total / steps for name, (total, steps) in progress.sums.items()}
        loss = sum(weights[name] * mean for name, mean in means.items())
        measured = self._measured()
        self._check_finite({f"held-out {name}": value for name, value in measured["held_out"].items()})
        progress.epoch += 1
        progress.step, progress.sums = 0, {}
        progress.history.append({"epoch": progress.epoch, "loss": loss, **means, **measured})
        log.info("%s", _line(progress.history[-1]))
        badness = self.task.badness(measured)
        if badness < progress.best:
            progress.best_epoch, progress.best, progress.stale = progress.epoch, badness, 0
            if self.schedule.patience is not None:
                self.best = {name: value.detach().clone() for name, value in self.named.items()}
        else:
            progress.stale += 1

    def _measured(self) -> Record:
        """Losses and retrieval on the held-out items, masked as ever; the leader computes them."""
        return self.team.decide(self._measure)

    def _test(self) -> None:
        if self.test_rows is not None:
            rows = self.test_rows
            self.task.module.eval()
            self.progress.tested.append(self.team.decide(lambda: self.task.retrieval(rows)))

    @torch.inference_mode()
    def _measure(self) -> Record:
        self.task.module.eval()
        config, rows, task = self.schedule, self.held_out_rows, self.task
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for number, start in enumerate(range(0, len(rows), config.batch_size)):
            generator = held_out_generator(config.seed, number)
            batch = task.draw(rows[start : start + config.batch_size], generator)
            totals = task.totals(batch)
            for losses in task.losses(batch, slice(0, len(batch)), totals, lambda own: own):
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0.0) + float(loss) * totals[name]
            for name, total in totals.items():
                counts[name] = counts.get(name, 0) + total
        means = {name: total / counts[name] for name, total in sums.items()}
        loss = sum(task.weights[name] * mean for name, mean in means.items())
        return {"held_out": {"loss": loss, **means}, "retrieval": task.retrieval(rows)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and a JSON-able rest, from which `restore` goes on exactly; what is not trained is left
        out, and what chance decides follows from the step."""
        tensors = {f"model.{name}": value.detach() for name, value in self.named.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, parameter in self.named.items():
            tensors |= {f"adam.{key}.{name}": value for key, value in self.adam.state[parameter].items()}
        return tensors, asdict(self.progress)

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go back to `state`; InputError when it is of another model."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "adam": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = value.to(self.task.device)
        shapes = {name: value.shape for name, value in self.named.items()}
        if {name: value.shape for name, value in groups["model"].items()} != shapes:
            raise InputError("the checkpoint is of a model with other parameters; remove it to train afresh")
        self._load(groups["model"])
        self.best = groups["best"]
        for name, value in groups["adam"].items():
            key, _, parameter = name.partition(".")
            self.adam.state[self.named[parameter]][key] = value
        self.progress = Progress(**state)

    @torch.no_grad()
    def _load(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.named.items():
            parameter.copy_(values[name])


def learning_rate(step: int, total: int, config: Schedule) -> float:
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
