"""The training loop of all gradient models: shuffled triples, Adam, early stopping, exact resume."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from .adam import Adam
from .capture import CapturedStep, CudaRecorder, Recorder
from .config import TrainConfig
from .end_to_end import EndToEnd, EndToEndStep
from .errors import DivergedError, InputError
from .models.base import GradientModel, TrainingData, Vectors
from .sampling import NegativeSampler
from .step import Step
from .team import Team, Triples

log = logging.getLogger(__name__)

Record = dict[str, Any]  # epoch, loss and its parts (means over batches), validation metrics, seconds
TRIPLES_AT_ONCE = 2**20  # drawn together; bounds the memory of sampling


class Checkpoint(Protocol):
    """Where the state of an unfinished run is kept; `save` replaces the last state atomically."""

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None: ...

    def load(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]] | None:
        """What was saved last, or None."""
        ...


@dataclass(slots=True)
class Progress:
    """What is known about a run besides tensors; JSON-able."""

    epoch: int = 0  # epochs done
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    stale: int = 0  # evaluations since the best
    history: list[Record] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    epochs: int  # run in all, interruptions included
    best_epoch: int  # whose parameters the model holds
    best_metrics: dict[str, float]  # on validation, of the best epoch
    history: list[Record]
    seconds: float  # of all epochs


def fit(
    model: GradientModel,
    data: TrainingData,
    validate: Callable[[Vectors], dict[str, float]],
    config: TrainConfig,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[Record], None] | None = None,
    team: Team | None = None,
    recorder: Recorder | None = None,
    encoder: EndToEnd | None = None,
) -> TrainingResult:
    """Train until `config.patience` evaluations bring nothing better; the model ends with the best epoch.

    Better means a strictly larger `config.metric` among what `validate` returns. With a `checkpoint` that
    holds a state, the run goes on from there, and ends (on a CPU, bit for bit) where it would have ended
    undisturbed. Seeds torch's default generator (dropout) from `config.seed` in every epoch. Raises
    DivergedError, saving nothing, when an epoch ends with a loss, a parameter or a vector that is not finite.

    All processes of a `team` call this with equal arguments, each on its device. The leader alone validates,
    loads and saves. `recorder` captures steps; by default one for CUDA graphs, where `config.capture` asks.
    An `encoder` is trained along, and ends with the best epoch too, its bank fresh.
    """
    team = team or Team()
    recorder = recorder or _recorder(config, data.device, team, encoder is not None)
    run = _Run(model, data, config, team, recorder, encoder)
    saved = team.give((checkpoint.load() if checkpoint else None) if team.leads else None)
    if saved is not None:
        run.restore(*saved)
        log.info("training goes on after epoch %d", run.progress.epoch)
    last_save = time.monotonic()
    while not run.finished:
        record = run.epoch(validate)
        due = time.monotonic() - last_save >= config.checkpoint_every
        if checkpoint and team.leads and (due or run.finished):
            checkpoint.save(*run.state())
            last_save = time.monotonic()
        if on_epoch:
            on_epoch(record)
    run.load_best()
    progress = run.progress
    seconds = sum(record["seconds"] for record in progress.history)
    figures = ", ".join(f"{name} {value:.4f}" for name, value in progress.best_metrics.items())
    log.info("epoch %d of %d is the best: %s", progress.best_epoch, progress.epoch, figures)
    return TrainingResult(
        progress.epoch, progress.best_epoch, progress.best_metrics, progress.history, seconds
    )


def _recorder(config: TrainConfig, device: torch.device, team: Team, with_encoder: bool) -> Recorder | None:
    if not config.capture:
        return None
    if device.type != "cuda" or team.size > 1 or with_encoder:
        where = "on a CPU" if device.type != "cuda" else "in several processes"
        where = "with an encoder" if with_encoder else where
        log.warning("train.capture is for training on one CUDA device: steps %s are not captured", where)
        return None
    return CudaRecorder(device)


class _Run:
    """A training run between two epochs: everything that a checkpoint must hold."""

    def __init__(
        self,
        model: GradientModel,
        data: TrainingData,
        config: TrainConfig,
        team: Team,
        recorder: Recorder | None,
        encoder: EndToEnd | None,
    ) -> None:
        self.model, self.config, self.device, self.team = model, config, data.device, team
        self.encoder = encoder
        self.sampler = NegativeSampler(data)
        self.adam = Adam(model, config.learning_rate)
        self.step = EndToEndStep(model, self.adam, team, encoder) if encoder else Step(model, self.adam, team)
        self.captured = CapturedStep(self.step, config.batch_size, recorder) if recorder else None
        seeds = np.random.SeedSequence(config.seed).generate_state(4, np.uint32).tolist()
        self.dropout_seed = seeds.pop()
        self.generators = {
            name: torch.Generator(self.device).manual_seed(seed)
            for name, seed in zip(("shuffle", "negatives", "start_epoch"), seeds, strict=True)
        }
        self.best: dict[str, Tensor] = {}  # the model's state at the best epoch
        self.progress = Progress()

    @property
    def finished(self) -> bool:
        return self.progress.epoch >= self.config.epochs or self.progress.stale >= self.config.patience

    def epoch(self, validate: Callable[[Vectors], dict[str, float]]) -> Record:
        """One pass over the pairs and, when it is due, validation; the record is added to the history."""
        started = time.perf_counter()
        epoch = self.progress.epoch + 1
        self._start_epoch(epoch)
        step = self.captured or self.step
        losses = [step(triples) for triples in self._batches()]
        self.team.check()
        record: Record = {"epoch": epoch, **self._mean_losses(losses, epoch)}
        if self.encoder:
            record |= self.encoder.end_epoch(epoch)
        if epoch % self.config.eval_every == 0 or epoch == self.config.epochs:
            record |= self._judge(validate, epoch)
        self.progress.epoch = epoch
        record["seconds"] = time.perf_counter() - started
        self.progress.history.append(record)
        return record

    def _start_epoch(self, epoch: int) -> None:
        """An epoch's dropout follows from its number: nothing of it to keep, for any number of processes."""
        torch.manual_seed(self.dropout_seed + epoch)
        self.team.align(self.model.state_dict().values())
        self.model.train()
        self.model.start_epoch(self.generators["start_epoch"])
        if self.encoder:
            self.encoder.start_epoch(epoch)
        if self.captured:
            self.captured.start_epoch()

    def _batches(self) -> Iterator[Triples]:
        """All pairs in random order, each with a fresh negative: (users, positives, negatives), each (b,)."""
        users, positives = self.sampler.pairs
        order = torch.randperm(len(users), generator=self.generators["shuffle"], device=self.device)
        size = self.config.batch_size
        for chosen in order.split(size * max(1, TRIPLES_AT_ONCE // size)):
            chosen_users = users[chosen]
            negatives = self.sampler.sample(chosen_users, self.generators["negatives"])
            yield from zip(
                chosen_users.split(size), positives[chosen].split(size), negatives.split(size), strict=True
            )

    def _mean_losses(self, losses: list[dict[str, Tensor]], epoch: int) -> dict[str, float]:
        """Means over batches, after one look at the device: are all losses and parameters finite?"""
        names = ["loss", *(name for name in losses[0] if name != "loss")]
        values = torch.stack([parts[name] for parts in losses for name in names]).view(len(losses), -1)
        values = self.team.sum(values.double())
        parameters_finite = bool(torch.stack([p.isfinite().all() for p in self.model.parameters()]).all())
        bad = (~values.isfinite()).any(dim=1).nonzero().flatten().tolist()
        advice = f"Try a learning_rate below {self.config.learning_rate:g}, or stronger regularisation."
        if bad:
            found = ", ".join(
                f"{name} {value:g}" for name, value in zip(names, values[bad[0]].tolist(), strict=True)
            )
            raise DivergedError(
                f"training diverged in epoch {epoch}, batch {bad[0] + 1} of {len(losses)} ({found}). {advice}"
            )
        if not parameters_finite:
            raise DivergedError(f"training diverged: parameters are not finite after epoch {epoch}. {advice}")
        if self.encoder and not self.encoder.parameters_finite():
            raise DivergedError(
                f"training diverged: the encoder is not finite after epoch {epoch}. Try a "
                f"train.end_to_end.learning_rate below {self.encoder.config.learning_rate:g}."
            )
        return dict(zip(names, values.mean(dim=0).tolist(), strict=True))

    def _judge(self, validate: Callable[[Vectors], dict[str, float]], epoch: int) -> dict[str, float]:
        """The validation metrics; a new best keeps the model's state."""
        metric, progress = self.config.metric, self.progress
        metrics = self.team.decide(lambda: self._metrics(validate, epoch))
        if not progress.best_epoch or metrics[metric] > progress.best_metrics[metric]:
            progress.best_epoch, progress.best_metrics, progress.stale = epoch, dict(metrics), 0
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
            if self.encoder:
                self.encoder.keep_best()
        else:
            progress.stale += 1
        return metrics

    def _metrics(self, validate: Callable[[Vectors], dict[str, float]], epoch: int) -> dict[str, float]:
        vectors, metric = self.model.vectors(), self.config.metric
        users = vectors.users.data if isinstance(vectors.users, sp.csr_matrix) else vectors.users
        if not (np.isfinite(users).all() and np.isfinite(vectors.items).all()):
            raise DivergedError(
                f"user or item vectors are not finite after epoch {epoch}; check the features"
            )
        metrics = validate(vectors)
        if metric not in metrics or math.isnan(metrics[metric]):
            raise InputError(f"validation gave {metrics}; expected a number for the metric '{metric}'")
        return metrics

    def load_best(self) -> None:
        self.model.load_state_dict(self.best)
        if self.encoder:
            self.encoder.load_best()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, each with memory of its own, and a JSON-able rest."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        tensors |= {f"adam.{name}": value for name, value in self.adam.tensors()}
        tensors |= {f"generator.{name}": generator.get_state() for name, generator in self.generators.items()}
        if self.encoder:
            tensors |= {f"end_to_end.{name}": value for name, value in self.encoder.tensors()}
        return {name: value.detach().clone() for name, value in tensors.items()}, asdict(self.progress)

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go back to `state`; InputError when it is of a model with other parameters."""
        kinds = ("model", "best", "adam", "generator", "end_to_end")
        groups: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = value
        shapes = {name: value.shape for name, value in self.model.state_dict().items()}
        if {name: value.shape for name, value in groups["model"].items()} != shapes:
            raise InputError("the checkpoint is of a model with other parameters; remove it to train afresh")
        self.model.load_state_dict(groups["model"])
        self.best = {name: value.to(self.device) for name, value in groups["best"].items()}
        self.adam.restore(groups["adam"])
        for name, generator in self.generators.items():
            generator.set_state(groups["generator"][name].cpu())
        if self.encoder:
            self.encoder.restore(groups["end_to_end"])
        self.progress = Progress(**state)
