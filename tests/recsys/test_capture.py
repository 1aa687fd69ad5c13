"""A captured step against the plain one, with a recorder that replays by doing the work again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmrec.recsys.capture import REHEARSALS, NotCapturable, Parts, Recorder, Work
from mmrec.recsys.config import TrainConfig
from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import GradientModel, TrainingData, Vectors
from mmrec.recsys.training import TrainingResult, fit

N_PAIRS, BATCH = 240, 32  # seven full batches and one of 16 in an epoch
EPOCHS = 3


class Tape:
    """As a CUDA graph: it runs on the memory of the recording, and its results lie at one place."""

    def __init__(self) -> None:
        self.rehearsed = self.recorded = self.replayed = 0

    def rehearse(self, work: Work) -> Parts:
        self.rehearsed += 1
        return work()

    def record(self, work: Work) -> Work:
        self.recorded += 1
        results: Parts = {}

        def replay() -> Parts:
            self.replayed += 1
            for name, value in work().items():
                results.setdefault(name, torch.empty_like(value)).copy_(value)
            return results

        return replay


class Broken(Tape):
    """A recording that fails half-way leaves gradients behind."""

    def __init__(self, model: GradientModel) -> None:
        super().__init__()
        self.model = model

    def record(self, work: Work) -> Work:
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        raise NotCapturable("it waits for the GPU")


def shop() -> TrainingData:
    keys = torch.randperm(40 * 30, generator=torch.Generator().manual_seed(5))[:N_PAIRS].sort().values
    values = torch.randn(30, 6, generator=torch.Generator().manual_seed(6))
    modalities = {"text.all": Modality(values, torch.ones(30, dtype=torch.bool))}
    return TrainingData(40, 30, keys // 30, keys % 30, modalities)


def spread(vectors: Vectors) -> dict[str, float]:
    return {"recall@20": float((vectors.users @ vectors.items.T).std()) % 0.7}


def new_model(name: str) -> GradientModel:
    torch.manual_seed(0)
    model = model_class(name)(shop(), 8, validate_options(name, {}))
    assert isinstance(model, GradientModel)
    return model


def trained(
    name: str, recorder: Recorder | None = None, model: GradientModel | None = None, **changes: Any
) -> tuple[Tensor, TrainingResult]:
    model = model or new_model(name)
    config = TrainConfig.model_validate({"batch_size": BATCH, "epochs": EPOCHS} | changes)
    result = fit(model, shop(), spread, config, recorder=recorder)
    return torch.cat([value.flatten().float() for value in model.state_dict().values()]), result


def figures(result: TrainingResult) -> list[dict[str, float]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in result.history]


@pytest.mark.parametrize("name", ["bpr", "lightgcn", "freedom", "lattice", "bm3"])
def test_captured_steps_train_as_plain_ones(name) -> None:
    plain, expected = trained(name)
    captured, result = trained(name, Tape())
    assert torch.equal(captured, plain)
    assert figures(result) == figures(expected)


def test_one_recording_lasts_and_the_small_last_batch_is_taken_plainly() -> None:
    tape = Tape()
    trained("lightgcn", tape)
    assert (tape.rehearsed, tape.recorded) == (REHEARSALS, 1)
    assert tape.rehearsed + tape.replayed == EPOCHS * (N_PAIRS // BATCH)


def test_what_an_epoch_draws_is_recorded_anew_after_its_first_batch() -> None:
    tape = Tape()
    trained("freedom", tape)
    assert (tape.rehearsed, tape.recorded) == (REHEARSALS + EPOCHS - 1, EPOCHS)
    assert tape.rehearsed + tape.replayed == EPOCHS * (N_PAIRS // BATCH)


def test_a_step_that_cannot_be_recorded_says_why_once_and_trains_without(caplog) -> None:
    plain, _ = trained("lightgcn")
    model = new_model("lightgcn")
    fallen_back, _ = trained("lightgcn", Broken(model), model)
    assert torch.equal(fallen_back, plain)
    (warning,) = [record.getMessage() for record in caplog.records if record.name.endswith("capture")]
    assert warning.startswith("the step of LightGCN is not captured: it waits for the GPU;")


def test_capture_on_a_cpu_is_a_warning(caplog) -> None:
    trained("bpr", capture=True, device="cpu")
    assert "steps on a CPU are not captured" in caplog.text
