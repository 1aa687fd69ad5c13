"""The training loop: exact Adam, early stopping, exact resume after any epoch, loud divergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor, nn

from mmrec.recsys.config import TrainConfig
from mmrec.recsys.errors import DivergedError, InputError
from mmrec.recsys.models.base import GradientModel, TrainingData, Vectors
from mmrec.recsys.training import Record, TrainingResult, fit


class NoisyFactors(GradientModel):
    """BPR with everything that a resumed run must restore: dropout, epoch randomness, a changing buffer."""

    class Options(BaseModel, frozen=True, extra="forbid"):
        sparse: bool = False

    steps: Tensor

    def __init__(self, data: TrainingData, dim: int, options: Options) -> None:
        super().__init__(data, dim, options)
        self.user = nn.Embedding(data.n_users, dim, sparse=options.sparse)
        self.item = nn.Embedding(data.n_items, dim, sparse=options.sparse)
        self.register_buffer("steps", torch.zeros(()))
        self.scale = torch.ones(dim)

    def start_epoch(self, generator: torch.Generator) -> None:
        self.scale = torch.rand(self.dim, generator=generator)

    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        self.steps += 1
        margin = self.user(users) * (self.item(positives) - self.item(negatives)) * self.scale
        bpr = -F.logsigmoid(F.dropout(margin, 0.3, self.training).sum(dim=1)).mean()
        return {"loss": bpr, "bpr": bpr}

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.user.weight, self.item.weight


class MemoryCheckpoint:
    def __init__(self) -> None:
        self.saved: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self.saved = dict(tensors), dict(state)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.saved


@pytest.fixture(scope="module")
def data() -> TrainingData:
    keys = torch.rand(40 * 30, generator=torch.Generator().manual_seed(5)).lt(0.2).nonzero().flatten()
    return TrainingData(40, 30, keys // 30, keys % 30)


def settings(**changes: Any) -> TrainConfig:
    defaults = {"dim": 8, "batch_size": 64, "epochs": 7, "checkpoint_every": 0, "learning_rate": 0.05}
    return TrainConfig.model_validate(defaults | changes)


def new_model(data: TrainingData, sparse: bool = False) -> NoisyFactors:
    torch.manual_seed(0)
    return NoisyFactors(data, 8, NoisyFactors.Options(sparse=sparse))


def spread(vectors: Vectors) -> dict[str, float]:
    """A stand-in for validation that depends on the parameters and goes up and down."""
    return {"recall@20": float((vectors.users @ vectors.items.T).std()) % 0.7}


def scripted(*values: float) -> Callable[[Vectors], dict[str, float]]:
    """Validation that returns these values in turn."""
    queue = iter(values)
    return lambda vectors: {"recall@20": next(queue)}


def without_seconds(result: TrainingResult) -> list[Record]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in result.history]


@pytest.mark.parametrize("sparse", [False, True])
def test_a_run_stopped_after_any_epoch_ends_bit_for_bit_as_if_undisturbed(
    data: TrainingData, sparse: bool
) -> None:
    config = settings(eval_every=2)
    whole = new_model(data, sparse)
    expected = fit(whole, data, spread, config)
    for stop in range(1, 7):
        checkpoint = MemoryCheckpoint()

        def interrupt(record: Record, stop: int = stop) -> None:
            if record["epoch"] == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(new_model(data, sparse), data, spread, config, checkpoint, interrupt)
        torch.manual_seed(999)
        torch.rand(stop)  # another process: its default generator stands elsewhere
        resumed = NoisyFactors(data, 8, NoisyFactors.Options(sparse=sparse))
        result = fit(resumed, data, spread, config, checkpoint)
        assert without_seconds(result) == without_seconds(expected)
        assert result.best_metrics == expected.best_metrics
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), (stop, name)


def test_checkpoints_wait_for_their_interval_and_the_last_is_always_written(data: TrainingData) -> None:
    checkpoint, seen = MemoryCheckpoint(), []
    fit(
        new_model(data), data, spread, settings(checkpoint_every=3600), checkpoint,
        lambda record: seen.append(checkpoint.saved is not None),
    )  # fmt: skip
    assert seen == [False] * 6 + [True]
    again = fit(new_model(data), data, scripted(), settings(), checkpoint)  # nothing is left to do
    assert again.epochs == 7


def test_early_stopping_keeps_the_strictly_best_epoch(data: TrainingData) -> None:
    states: list[Tensor] = []
    model = new_model(data)
    result = fit(
        model, data, scripted(0.1, 0.3, 0.3, 0.2, 0.3, 0.9), settings(patience=3, epochs=50),
        on_epoch=lambda record: states.append(model.user.weight.detach().clone()),
    )  # fmt: skip
    assert (result.best_epoch, result.epochs, result.best_metrics) == (2, 5, {"recall@20": 0.3})
    assert torch.equal(model.user.weight, states[1])
    assert not torch.equal(states[1], states[4])


def test_records_hold_losses_each_epoch_and_metrics_when_validated(data: TrainingData) -> None:
    result = fit(new_model(data), data, spread, settings(eval_every=3, epochs=7))
    assert [record["epoch"] for record in result.history] == list(range(1, 8))
    assert ["recall@20" in record for record in result.history] == [False, False, True] * 2 + [True]
    assert all(record["bpr"] == record["loss"] > 0 for record in result.history)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_every_pair_is_visited_once_per_epoch_in_new_order(data: TrainingData) -> None:
    seen: list[Tensor] = []

    class Spy(NoisyFactors):
        def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
            seen.append(users * data.n_items + positives)
            return super().loss(users, positives, negatives)

    fit(Spy(data, 8, Spy.Options()), data, spread, settings(epochs=2, batch_size=50))
    first, second = torch.cat(seen).view(2, -1)
    assert torch.equal(first.sort().values, data.keys)
    assert torch.equal(second.sort().values, data.keys)
    assert not torch.equal(first, second)
    assert max(len(batch) for batch in seen) == 50


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing(data: TrainingData) -> None:
    class Explodes(NoisyFactors):
        def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
            parts = super().loss(users, positives, negatives)
            return {"loss": parts["loss"] * (torch.nan if self.steps == 7 else 1), "bpr": parts["bpr"]}

    checkpoint = MemoryCheckpoint()
    with pytest.raises(DivergedError, match=r"epoch 2, batch 2 of 5 \(loss nan, bpr .*rate below 0.05"):
        fit(Explodes(data, 8, Explodes.Options()), data, spread, settings(), checkpoint)
    assert checkpoint.saved is not None
    assert checkpoint.saved[1]["epoch"] == 1
    assert all(value.isfinite().all() for value in checkpoint.saved[0].values() if value.is_floating_point())


def test_parameters_that_are_not_finite_are_never_the_best(data: TrainingData) -> None:
    with pytest.raises(DivergedError, match="parameters are not finite after epoch 1"):
        # one batch an epoch: the loss before the step is finite, the parameters after it are not
        fit(new_model(data), data, spread, settings(learning_rate=1e39, batch_size=10_000))


def test_a_metric_that_validation_does_not_give_is_an_error(data: TrainingData) -> None:
    with pytest.raises(InputError, match=r"expected a number for the metric 'ndcg@10'"):
        fit(new_model(data), data, spread, settings(metric="ndcg@10"))


def test_a_checkpoint_of_another_model_is_refused(data: TrainingData) -> None:
    checkpoint = MemoryCheckpoint()
    fit(new_model(data), data, spread, settings(epochs=1), checkpoint)
    with pytest.raises(InputError, match="model with other parameters; remove it"):
        fit(NoisyFactors(data, 4, NoisyFactors.Options()), data, spread, settings(), checkpoint)
