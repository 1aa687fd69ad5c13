"""The gradient that reaches an encoder through the bank is the true one; runs resume; who ignores features is
refused. This file is also the program that each of two processes runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrec.recsys import parallel
from mmrec.recsys.adam import Adam
from mmrec.recsys.config import EndToEndConfig, TrainConfig
from mmrec.recsys.end_to_end import EndToEnd, EndToEndStep
from mmrec.recsys.errors import DivergedError, InputError
from mmrec.recsys.feature_bank import FeatureBank
from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import GradientModel, TrainingData, Vectors
from mmrec.recsys.team import Team, Triples
from mmrec.recsys.training import TrainingResult, fit

CONTENT = ("freedom", "vbpr", "bm3", "mgcn", "alignrec", "lattice", "grcn", "mmgcn", "slmrec", "mmgcl")
N_USERS, N_ITEMS, DIM = 14, 12, 6
ABSENT = {"image.full": [3, 4], "text.title": [4, 5]}


class ToyEncoder:
    """Two layers per view on inputs that are drawn; items 6 and 7 have the same title."""

    def __init__(self, dropout: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(1)
        torch.manual_seed(2)
        self.inputs = {view: torch.randn(N_ITEMS, 5, generator=generator) for view in ABSENT}
        self.inputs["text.title"][7] = self.inputs["text.title"][6]
        self.present = {view: torch.ones(N_ITEMS, dtype=torch.bool) for view in ABSENT}
        for view, rows in ABSENT.items():
            self.present[view][rows] = False
        self.module = nn.ModuleDict(
            {
                view.replace(".", "_"): nn.Sequential(
                    nn.Linear(5, 7), nn.Tanh(), nn.Dropout(dropout), nn.Linear(7, DIM)
                )
                for view in ABSENT
            }
        ).train(dropout > 0)
        self.depths = {name: int(".0." in name) for name, _ in self.module.named_parameters()}
        self.contents: Mapping[str, Tensor] = {view: torch.arange(N_ITEMS) for view in ABSENT}
        self.contents["text.title"][7] = 6
        self.sizes: list[int] = []  # of the micro-batches

    def encode(self, rows: Tensor) -> dict[str, Tensor]:
        self.sizes.append(len(rows))
        found = {}
        for view, inputs in self.inputs.items():
            layer = self.module[view.replace(".", "_")]
            dtype = next(layer.parameters()).dtype
            vectors = F.normalize(layer(inputs[rows].to(dtype)), dim=1)
            found[view] = vectors * self.present[view][rows].unsqueeze(1)
        return found

    def bank(self) -> tuple[FeatureBank, dict[str, Modality]]:
        """A bank of what this encoder gives now, and the views as models take them."""
        training, self.module = self.module.training, self.module.eval()
        with torch.no_grad():
            values = self.encode(torch.arange(N_ITEMS))
        self.module.train(training)
        self.sizes.clear()
        views = {view: Modality(rows.float(), self.present[view]) for view, rows in values.items()}
        bank = FeatureBank(views)
        return bank, bank.joined(views)


def pairs() -> tuple[Tensor, Tensor]:
    keys = torch.rand(N_USERS * N_ITEMS, generator=torch.Generator().manual_seed(3)).lt(0.3)
    users, items = keys.view(N_USERS, N_ITEMS)[:, :-2].nonzero().T  # the last two items are cold
    return users.contiguous(), items.contiguous()


def built(
    name: str, options: dict[str, Any], encoder: ToyEncoder, team: Team | None = None, **settings: Any
) -> tuple[GradientModel, TrainingData, EndToEnd]:
    bank, views = encoder.bank()
    data = TrainingData(N_USERS, N_ITEMS, *pairs(), views)
    torch.manual_seed(0)
    model = model_class(name)(data, 4, validate_options(name, options))
    assert isinstance(model, GradientModel)
    defaults = {"warmup_epochs": 0, "learning_rate": 1e-3, "micro_batch": 5}
    config = EndToEndConfig.model_validate(defaults | settings)
    return model, data, EndToEnd(encoder, bank, config, team=team)


def batch() -> Triples:
    generator = torch.Generator().manual_seed(4)
    drawn = torch.randint(N_ITEMS, (2, 8), generator=generator)
    return torch.arange(8), drawn[0], drawn[1]


def in_double(model: GradientModel, trained: EndToEnd) -> None:
    model.double()
    trained.encoder.module.double()
    with torch.no_grad():
        trained.bank.tables = {
            view: table.detach().double().requires_grad_() for view, table in trained.bank.tables.items()
        }


def test_lattice_trains_the_encoder_in_the_batches_that_train_its_graph() -> None:
    steps = [
        [record["encoder"]["steps"] for record in trained_run("lattice", {"train_graph": batches})[0].history]
        for batches in ("first-batch", "every-batch")
    ]
    assert steps[0] == [1] * 4 and min(steps[1]) > 1


def through_the_bank(name: str, micro_batch: int, dropout: float = 0.0, **settings: Any) -> Tensor:
    """The encoder's gradient in one step, as its optimiser sees it."""
    encoder = ToyEncoder(dropout)
    model, _, trained = built(name, {}, encoder, micro_batch=micro_batch, clip=1e9, **settings)
    in_double(model, trained)
    seen: list[Tensor] = []
    trained.adam.step = lambda: seen.append(gradient(encoder))  # type: ignore[method-assign]
    torch.manual_seed(9)
    model.start_epoch(torch.Generator().manual_seed(0))
    trained.start_epoch(1)
    EndToEndStep(model, Adam(model, 1e-3), Team(), trained)(batch())
    assert max(encoder.sizes) <= micro_batch
    return seen[0]


def through_autograd(name: str, encode: str = "all") -> Tensor:
    """The same by one graph from the encoder's parameters to the loss, with the rows of other items fixed."""
    encoder = ToyEncoder()
    model, _, trained = built(name, {}, encoder)
    in_double(model, trained)
    users, positives, negatives = batch()
    rows = (positives if encode == "positives" else torch.cat([positives, negatives])).unique()
    fresh = encoder.encode(rows)
    trained.bank.tables = {
        view: table.detach().index_put((rows,), fresh[view]) for view, table in trained.bank.tables.items()
    }
    torch.manual_seed(9)
    model.start_epoch(torch.Generator().manual_seed(0))
    model.loss(users, positives, negatives)["loss"].backward()
    return gradient(encoder)


def gradient(encoder: ToyEncoder) -> Tensor:
    return torch.cat([p.grad.flatten().clone() for p in encoder.module.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", ["vbpr", "bm3", "mmgcn", "lattice", "grcn"])
@pytest.mark.parametrize("encode", ["all", "positives"])
def test_the_gradient_is_that_of_one_graph_whatever_the_micro_batch(name: str, encode: str) -> None:
    expected = through_autograd(name, encode)
    assert expected.norm() > 1e-6
    for micro_batch in (1, 3, 100):
        found = through_the_bank(name, micro_batch, encode=encode)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12), micro_batch


def test_dropout_in_the_second_pass_is_that_of_the_first() -> None:
    """Encoding twice with two draws would give a gradient of neither; the sum over a batch tells."""
    encoder = ToyEncoder(dropout=0.5)
    model, _, trained = built("vbpr", {}, encoder, micro_batch=3, clip=1e9)
    trained.start_epoch(1)
    first: list[Tensor] = []
    plain = encoder.encode
    encoder.encode = lambda rows: (
        first.append(plain(rows)["image.full"])
        or {  # type: ignore[method-assign]
            "image.full": first[-1],
            "text.title": plain(rows)["text.title"],
        }
    )
    EndToEndStep(model, Adam(model, 1e-3), Team(), trained)(batch())
    half = len(first) // 2
    assert half > 1
    for without_graph, with_graph in zip(first[:half], first[half:], strict=True):
        assert torch.equal(without_graph, with_graph.detach())
        assert with_graph.requires_grad


def trained_run(
    name: str, options: dict[str, Any] | None = None, epochs: int = 4, **settings: Any
) -> tuple[TrainingResult, ToyEncoder, EndToEnd]:
    encoder = ToyEncoder()
    model, data, trained = built(name, options or {}, encoder, **settings)
    config = TrainConfig(learning_rate=0.01, batch_size=9, epochs=epochs, seed=5)
    return fit(model, data, spread, config, encoder=trained), encoder, trained


def spread(vectors: Vectors) -> dict[str, float]:
    return {"recall@20": float((vectors.users @ vectors.items.T).std())}


@pytest.mark.parametrize("name", CONTENT)
def test_every_model_of_content_trains_the_encoder(name: str) -> None:
    before = [p.detach().clone() for p in ToyEncoder().module.parameters()]
    result, encoder, trained = trained_run(name, epochs=3, warmup_epochs=1)
    assert "encoder" not in result.history[0]
    figures = result.history[-1]["encoder"]
    assert figures["steps"] > 0 and figures["gradient_norm"] > 0
    for view in ABSENT:
        assert figures["drift"][view] > 0
        assert (trained.bank.tables[view][ABSENT[view]] == 0).all()
    after = list(encoder.module.parameters())
    if result.best_epoch > 1:
        assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True))
        fresh = encoder.encode(torch.arange(N_ITEMS))
        for view, rows in fresh.items():  # the bank is that of the encoder that is kept
            assert torch.allclose(trained.bank.tables[view], rows, atol=1e-6)


def test_the_bank_is_stale_until_it_is_refreshed() -> None:
    often, never = (
        [
            record["encoder"]["staleness"]["image.full"]
            for record in trained_run("vbpr", **settings)[0].history
        ]
        for settings in ({"refresh_every": 1}, {"refresh_every": 100})
    )
    assert often[0] == never[0] > 0
    assert never[-1] > 2 * often[-1]  # of the cold items, which are in no batch


def test_contrast_between_views_is_a_part_of_the_loss_and_of_the_gradient() -> None:
    plain, contrasted = (
        trained_run("vbpr", epochs=8, learning_rate=0.01, itc_weight=weight)[0].history for weight in (0, 1)
    )
    assert "itc" not in plain[-1]
    assert contrasted[-1]["itc"] < contrasted[0]["itc"]
    before, after = (history[-1]["encoder"]["recall@1"]["text.title"] for history in (plain, contrasted))
    assert after > before


@pytest.mark.parametrize(
    ("name", "options"),
    [("freedom", {"reg_weight": 0.0}), ("lattice", {"original_share": 1.0, "cf_model": "mf"})],
)
def test_a_loss_that_ignores_features_is_refused_at_once(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"the loss of \w+ with these options does not depend on item feat"):
        trained_run(name, options, warmup_epochs=2)


@pytest.mark.parametrize("name", ["vbpr", "mgcn"])
def test_a_batch_of_items_without_views_says_nothing_about_the_loss(name: str) -> None:
    model, _, trained = built(name, {}, ToyEncoder())
    model.start_epoch(torch.Generator().manual_seed(0))
    trained.start_epoch(1)
    step = EndToEndStep(model, Adam(model, 1e-3), Team(), trained)
    (bare,) = set(ABSENT["image.full"]) & set(ABSENT["text.title"])
    step((torch.tensor([0]), torch.tensor([bare]), torch.tensor([bare])))
    assert not trained.norms
    step(batch())
    assert len(trained.norms) == 1 and trained.active


def test_features_that_the_model_would_train_itself_are_refused() -> None:
    with pytest.raises(InputError, match="train_features"):
        trained_run("bm3", {"train_features": True})


def test_an_encoder_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(DivergedError, match=r"diverged.*"):
        trained_run("vbpr", learning_rate=1e39, clip=1e30)


class MemoryCheckpoint:
    def __init__(self) -> None:
        self.saved: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        self.saved = dict(tensors), dict(state)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.saved


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_run_stopped_after_any_epoch_ends_bit_for_bit_as_if_undisturbed(dropout: float) -> None:
    config = TrainConfig(learning_rate=0.01, batch_size=9, epochs=6, checkpoint_every=0)

    def run(checkpoint: MemoryCheckpoint | None = None, stop: int = 0) -> tuple[dict[str, Tensor], Any]:
        model, data, trained = built("mmgcl", {}, ToyEncoder(dropout), warmup_epochs=1, refresh_every=2)

        def interrupt(record: Mapping[str, Any]) -> None:
            if record["epoch"] == stop:
                raise KeyboardInterrupt

        result = fit(model, data, spread, config, checkpoint, interrupt, encoder=trained)
        state = {**model.state_dict(), **dict(trained.tensors())}
        return state, [{**record, "seconds": 0} for record in result.history]

    expected, history = run()
    for stop in (1, 2, 3, 5):
        checkpoint = MemoryCheckpoint()
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, stop)
        found, resumed = run(checkpoint)
        assert resumed == history
        assert all(torch.equal(found[name], value) for name, value in expected.items()), stop


def numbers_of(name: str, team: Team) -> list[float]:
    """The encoder and the bank after three epochs; a part of the encoder is reached by no gradient."""
    encoder = ToyEncoder()
    encoder.module["idle"] = nn.Linear(2, 2)
    encoder.depths |= {"idle.weight": 0, "idle.bias": 0}
    model, data, trained = built(
        name, {}, encoder, team, itc_weight=0.1, micro_batch=2, learning_rate=1e-2, weight_decay=1.0
    )
    fit(
        model,
        data,
        spread,
        TrainConfig(learning_rate=0.01, batch_size=9, epochs=3),
        team=team,
        encoder=trained,
    )
    return torch.cat([value.flatten().float() for _, value in trained.tensors()]).tolist()


def program(out: Path) -> None:
    with parallel.team("cpu") as team:
        out.write_text(json.dumps({name: numbers_of(name, team) for name in ("vbpr", "mmgcn")}))


def test_two_processes_train_the_encoder_of_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    outs = [tmp_path / f"{rank}.json" for rank in range(2)]
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(out)], env=os.environ | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    try:
        for process in running:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
    first, second = (json.loads(out.read_text()) for out in outs)
    assert first == second
    for name, numbers in first.items():
        assert numbers == pytest.approx(numbers_of(name, Team()), abs=1e-4)


if __name__ == "__main__":
    program(Path(sys.argv[1]))
