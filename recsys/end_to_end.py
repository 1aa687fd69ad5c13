"""An encoder trained with a recommender: the loss reaches it through a feature bank, in two passes.

The gradient cache (Gao et al., RepL4NLP 2021), where a recommender takes the place of the contrastive loss:
the items of a batch are encoded without a graph, the recommender's backward pass leaves G = dL/dX in the
bank, and the items are encoded again, a few at a time with a graph, to pass sum <X, G> on to the encoder. Its
gradient is that of the whole batch; the memory is that of a micro-batch.

Fine-tuning has a cache of its own for pairs (`features.finetuning.gradient_cache`). There the loss is at
hand; here vectors go into a bank, G is looked up in it, and processes share out the items. What is left in
common, a loop over pieces, would cost more to share between two packages that do not know each other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adam import Adam
from .config import EndToEndConfig
from .errors import InputError
from .feature_bank import FeatureBank
from .models.base import GradientModel
from .step import Step
from .team import Team, Triples
from .view_contrast import ImageTexts

log = logging.getLogger(__name__)

Vectors = dict[str, Tensor]  # view -> (b, d)
REFRESHED_AT_ONCE = 2**12  # rows that processes exchange together


class RowEncoder(Protocol):
    """The items of a data set as an encoder reads them.

    `module` holds the parameters, on the device of the data; `requires_grad` marks those that are trained. It
    stays in the mode, of training or evaluation, that it is in. `depths` says how many layers lie between a
    parameter and the vectors, by which layer decay goes, and `contents`, view -> (n_items,) int64, by equal
    numbers where the encoder reads the same.
    """

    module: nn.Module
    depths: Mapping[str, int]
    contents: Mapping[str, Tensor]

    def encode(self, rows: Tensor) -> Vectors:
        """Vectors (b, d) of items (b,) in every view, differentiable; zero where an item lacks the view."""
        ...


class EndToEnd:
    """The encoder's part in a run: fresh rows for a batch, its gradient, its optimiser, and figures about it.

    `bank` holds what the encoder gives at the start; `seed` draws the items that figures are measured on.
    """

    def __init__(
        self,
        encoder: RowEncoder,
        bank: FeatureBank,
        config: EndToEndConfig,
        seed: int = 0,
        team: Team | None = None,
    ) -> None:
        self.encoder, self.bank, self.config, self.team = encoder, bank, config, team or Team()
        self.named = {name: p for name, p in encoder.module.named_parameters() if p.requires_grad}
        if not self.named:
            raise InputError(f'train.end_to_end.method = "{config.method}" leaves no parameter to train')
        self.paired = ImageTexts(bank, encoder.contents)
        if config.itc_weight and not self.paired.texts:
            raise InputError(
                "train.end_to_end.itc_weight sets images against texts of the same size, but the views that "
                f"are trained are {', '.join(bank.tables)}; set it to 0, or name others in train.views"
            )
        self.adam = torch.optim.AdamW(self._groups(), lr=config.learning_rate, fused=True)
        self.n_items, self.device = bank.n_items, bank.device
        drawn = torch.randperm(self.n_items, generator=torch.Generator().manual_seed(seed))
        self.sample = drawn[: config.sample].sort().values.to(self.device)
        self.initial = self._sampled()  # X_0
        self.best: dict[str, Tensor] = {}  # the encoder of the best epoch
        self.active = False  # whether the batches of this epoch train the encoder
        self.judged = False  # whether a batch of this epoch has shown that the loss depends on features
        self.norms: list[Tensor] = []  # of the gradient, in the steps of this epoch that had one

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by learning rate and by decay, which is for matrices."""
        config = self.config
        groups: dict[tuple[int, bool], list[Tensor]] = {}
        for name, parameter in self.named.items():
            groups.setdefault((self.encoder.depths[name], parameter.ndim > 1), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": config.learning_rate * config.layer_decay**depth,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (depth, decays), parameters in groups.items()
        ]

    def start_epoch(self, epoch: int) -> None:
        self.active = epoch > self.config.warmup_epochs
        self.judged, self.norms = False, []
        shared = (*self.named.values(), *self.bank.tables.values())
        self.team.align(tensor.data for tensor in shared)

    def begin(self, triples: Triples) -> Pass:
        """The items of a batch, their rows in the bank fresh if the encoder is trained."""
        _, positives, negatives = triples
        read = positives if self.config.encode == "positives" else torch.cat([positives, negatives])
        batch = Pass(read.unique())
        if self.active:
            self.bank.write(batch.rows, self._encoded(batch.rows, batch))
        return batch

    def require_gradient(self, model: GradientModel, batch: Pass) -> None:
        """InputError where the first backward pass of an epoch left nothing in the bank, though an item of
        its batch has a view."""
        if self.judged or self._bare(batch):
            return
        self.judged = True
        reached = torch.tensor(float(self.bank.has_gradient()), device=self.device)
        if not self.team.sum(reached):
            raise InputError(
                f"the loss of {type(model).__name__} with these options does not depend on item features, "
                'so it has nothing to train an encoder by; take another model, or train.encoder = "frozen"'
            )

    def finish(self, batch: Pass) -> None:
        """Pass what the backward pass left in the bank on to the encoder, and take its step."""
        if self.active:
            gradients = {view: self.team.sum(rows) for view, rows in self.bank.gradients(batch.rows).items()}
            if any(bool(rows.any()) for rows in gradients.values()):
                self._backward(batch, gradients)
                self._step()
            else:
                # A loss that reads features in some batches of an epoch only, LATTICE's, begins with those.
                self.active = self._bare(batch)
        self.bank.clear_gradients()

    def _bare(self, batch: Pass) -> bool:
        """Whether no item of the batch has a view: that no gradient reaches these says nothing of a loss."""
        return not any(bool(present[batch.rows].any()) for present in self.bank.present.values())

    def _backward(self, batch: Pass, gradients: Vectors) -> None:
        """Add the gradient of sum <X, G> to the encoder's, a micro-batch at a time."""
        for number, part in enumerate(self._parts(len(batch.rows))):
            with _replayed(batch.generators[number], self.device) if batch.generators else nullcontext():
                vectors = self.encoder.encode(batch.rows[part])
            products = [(vectors[view] * rows[part]).sum() for view, rows in gradients.items()]
            total = torch.stack(products).sum()
            if total.requires_grad:  # not where these items lack every view
                total.backward()

    def _step(self) -> None:
        parameters = list(self.named.values())
        self.team.sum_gradients(self.team.reached(parameters), [])
        self.norms.append(torch.nn.utils.clip_grad_norm_(parameters, self.config.clip))
        self.adam.step()
        self.adam.zero_grad()

    @torch.no_grad()
    def _encoded(self, rows: Tensor, batch: Pass | None = None) -> Vectors:
        """Vectors (b, d) of items (b,) in every view, encoded by all processes together; `batch` keeps what
        random numbers they were drawn with."""
        found = {view: torch.zeros_like(table[: len(rows)]) for view, table in self.bank.tables.items()}
        for part in self._parts(len(rows)):
            if batch is not None and self.encoder.module.training:
                batch.generators.append(_generator_states(self.device))
            vectors = self.encoder.encode(rows[part])
            for view, place in found.items():
                place[part] = vectors[view].to(place.dtype)
        return {view: self.team.sum(place) for view, place in found.items()}

    def _parts(self, n: int) -> Iterator[slice]:
        """The micro-batches of this process's share of n rows."""
        stop = n * (self.team.rank + 1) // self.team.size
        for start in range(n * self.team.rank // self.team.size, stop, self.config.micro_batch):
            yield slice(start, min(start + self.config.micro_batch, stop))

    def refresh(self) -> None:
        """Encode every item into the bank."""
        with _evaluated(self.encoder.module):
            for rows in torch.arange(self.n_items, device=self.device).split(REFRESHED_AT_ONCE):
                self.bank.write(rows, self._encoded(rows))

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """Refresh the bank where that is due; figures about the encoder, none before it was first trained.

        staleness: mean 1 - cosine of the bank's rows with fresh ones, before a refresh; drift: of fresh rows
        with those at the start; both by view. gradient_norm: mean before clipping, 0 without a step.
        recall@1: of the item's image among those of the sample, given its text, and the other way round.
        """
        if not self.adam.state:
            return {}
        stale = self._sampled()
        if epoch % self.config.refresh_every == 0:
            self.refresh()
            fresh = self._sampled()
        else:
            with _evaluated(self.encoder.module):
                fresh = self._encoded(self.sample)
        norm = float(torch.stack(self.norms).mean()) if self.norms else 0.0
        figures = {
            "steps": len(self.norms),
            "gradient_norm": norm,
            "staleness": self._distances(stale, fresh),
            "drift": self._distances(self.initial, fresh),
            "recall@1": self.paired.retrieval(self.sample, fresh),
        }
        log.info(
            "epoch %d: encoder trained in %d steps, gradient norm %.3g, staleness %.3g, drift %.3g",
            epoch, len(self.norms), norm, *(_mean(figures[name]) for name in ("staleness", "drift")),
        )  # fmt: skip
        return {"encoder": figures}

    def _sampled(self) -> Vectors:
        return {view: table.detach()[self.sample] for view, table in self.bank.tables.items()}

    def _distances(self, before: Vectors, after: Vectors) -> dict[str, float]:
        """Mean 1 - cosine over the sampled items that have the view."""
        found = {}
        for view, rows in after.items():
            held = self.bank.present[view][self.sample]
            cosines = F.cosine_similarity(before[view][held].double(), rows[held].double(), dim=1)
            found[view] = float((1 - cosines).mean()) if len(cosines) else 0.0
        return found

    def parameters_finite(self) -> bool:
        return all(bool(parameter.isfinite().all()) for parameter in self.named.values())

    def keep_best(self) -> None:
        self.best = {name: parameter.detach().clone() for name, parameter in self.named.items()}

    @torch.no_grad()
    def load_best(self) -> None:
        """Go back to the encoder that was kept, and encode every item with it."""
        for name, parameter in self.named.items():
            parameter.copy_(self.best[name])
        self.refresh()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of all that `restore` needs."""
        for name, parameter in self.named.items():
            yield f"encoder.{name}", parameter
            for key, value in self.adam.state[parameter].items() if parameter in self.adam.state else ():
                yield f"{key}.{name}", value
        for name, value in self.best.items():
            yield f"best.{name}", value
        for view, table in self.bank.tables.items():
            yield f"bank.{view}", table

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave; InputError when it is of another encoder."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = value.to(self.device)
        shapes = {name: parameter.shape for name, parameter in self.named.items()}
        if {name: value.shape for name, value in groups.pop("encoder", {}).items()} != shapes:
            raise InputError("the checkpoint is of another encoder; remove it to train afresh")
        for name, parameter in self.named.items():
            parameter.copy_(tensors[f"encoder.{name}"])
        self.best = groups.pop("best", {})
        self.bank.restore(groups.pop("bank"))
        for key, values in groups.items():
            for name, value in values.items():
                self.adam.state[self.named[name]][key] = value


class Pass:
    """The items of a batch that are encoded, ascending, and the random numbers they were encoded with."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.generators: list[list[Tensor]] = []  # of the micro-batches, where the encoder draws any


class EndToEndStep(Step):
    """A `Step` of a recommender and, in it, of the encoder of its features."""

    def __init__(self, model: GradientModel, adam: Adam, team: Team, encoder: EndToEnd) -> None:
        super().__init__(model, adam, team)
        self.encoder = encoder

    def __call__(self, triples: Triples) -> dict[str, Tensor]:
        batch = self.encoder.begin(triples)
        parts = self.differentiate(triples)
        self.encoder.require_gradient(self.model, batch)
        weight, temperature = self.encoder.config.itc_weight, self.encoder.config.itc_temperature
        if weight:
            contrast = self.encoder.paired.contrast(batch.rows, temperature)
            contrast = contrast / self.team.size  # all processes have these rows
            (weight * contrast).backward()
            parts = {"loss": parts["loss"] + weight * contrast.detach(), **parts, "itc": contrast.detach()}
        self.encoder.finish(batch)
        self.adam.step()
        return parts


def _mean(by_view: Mapping[str, float]) -> float:
    return sum(by_view.values()) / len(by_view)


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """`module` without dropout."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _generator_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


@contextmanager
def _replayed(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """torch's default generators as they stood at `states`, and afterwards again as they are now."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state(states[1], device)
        yield
