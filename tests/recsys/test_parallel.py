"""Two processes train as one: this file is also the program that each of them runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmrec.recsys import parallel
from mmrec.recsys.config import TrainConfig
from mmrec.recsys.errors import DivergedError, PeerFailed
from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import GradientModel, TrainingData, Vectors
from mmrec.recsys.team import State, Team
from mmrec.recsys.training import fit

# sparse gradients; propagation; edges drawn per epoch; parameters with a gradient in some steps only; dropout
MODELS = ("bpr", "lightgcn", "freedom", "lattice", "bm3")
UNDISTURBED = "bm3"  # the model of the test of resumption


class MemoryCheckpoint:
    def __init__(self) -> None:
        self.saved: State | None = None

    def save(self, *state: Any) -> None:
        self.saved = state  # type: ignore[assignment]

    def load(self) -> State | None:
        return self.saved


def shop() -> TrainingData:
    generator = torch.Generator().manual_seed(5)
    keys = torch.rand(40 * 30, generator=generator).lt(0.2).nonzero().flatten()
    keys = keys[: len(keys) // 50 * 50 + 1]  # batches of 25 leave one pair: less than there are processes
    views = {name: torch.randn(30, 6, generator=generator) for name in ("image.full", "text.all")}
    held = torch.ones(30, dtype=torch.bool)
    modalities = {name: Modality(values, held) for name, values in views.items()}
    return TrainingData(40, 30, keys // 30, keys % 30, modalities)


def spread(vectors: Vectors) -> dict[str, float]:
    return {"recall@20": float((vectors.users @ vectors.items.T).std()) % 0.7}


def trained(
    name: str, team: Team, epochs: int, checkpoint: MemoryCheckpoint | None = None
) -> tuple[GradientModel, list[dict[str, Any]]]:
    data = shop()
    torch.manual_seed(0)
    model = model_class(name)(data, 8, validate_options(name, {}))
    assert isinstance(model, GradientModel)
    config = TrainConfig(learning_rate=0.05, batch_size=25, epochs=epochs, checkpoint_every=0)
    history = fit(model, data, spread, config, checkpoint, team=team).history
    return model, [{key: value for key, value in record.items() if key != "seconds"} for record in history]


def numbers(model: GradientModel) -> list[float]:
    return torch.cat([value.flatten().float() for value in model.state_dict().values()]).tolist()


def explode(vectors: Vectors) -> Any:
    raise DivergedError("validation failed on the leader")


def program(out: Path) -> None:
    """What one of the processes does."""
    parallel.GRACE = 0.0
    found: dict[str, Any] = {"history": {}, "numbers": {}}
    try:
        with parallel.team("cpu") as team:
            for name in MODELS:
                model, found["history"][name] = trained(name, team, epochs=4)
                found["numbers"][name] = numbers(model)
            checkpoint = MemoryCheckpoint()  # a follower's stays empty
            trained(UNDISTURBED, team, epochs=2, checkpoint=checkpoint)
            model, _ = trained(UNDISTURBED, team, epochs=4, checkpoint=checkpoint)
            found["resumed"] = numbers(model)
            found["gradients"] = gradients(team)
            found["writes"] = checkpoint.saved is not None
            config = TrainConfig(epochs=1)
            fit(model, shop(), explode if team.leads else spread, config, team=team)
    except (DivergedError, PeerFailed) as error:
        found["error"] = f"{type(error).__name__}: {error}"
    out.write_text(json.dumps(found))


def gradients(team: Team) -> list[Any]:
    """The summed gradients of a dense parameter, a sparse one and one without."""
    dense, sparse, unused = (torch.nn.Parameter(torch.zeros(3, 2)) for _ in range(3))
    dense.grad = torch.full((3, 2), team.rank + 1.0)
    rows = torch.tensor([[0, 2, 0][: 2 + team.rank]])  # processes hold different numbers of rows
    sparse.grad = torch.sparse_coo_tensor(rows, torch.ones(2 + team.rank, 2), (3, 2))
    team.sum_gradients([dense, unused], [sparse])

    def values(parameter: Tensor) -> Any:
        return None if parameter.grad is None else parameter.grad.to_dense()[:, 0].tolist()

    return [values(dense), values(sparse), values(unused)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    outs = [folder / f"{rank}.json" for rank in range(2)]
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(out)], env=os.environ | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank, out in enumerate(outs)
    ]  # fmt: skip
    try:
        for process in running:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
    return [json.loads(out.read_text()) for out in outs]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "bm3"])  # its dropout differs
def test_two_processes_give_the_loss_curve_of_one(pair, name) -> None:
    model, history = trained(name, Team(), epochs=4)
    assert pair[0]["history"][name] == [pytest.approx(record, abs=1e-5) for record in history]
    assert pair[0]["numbers"][name] == pytest.approx(numbers(model), abs=1e-4)


def test_processes_hold_equal_models_and_figures(pair) -> None:
    assert pair[0]["numbers"] == pair[1]["numbers"]
    assert pair[0]["history"] == pair[1]["history"]


def test_a_resumed_run_ends_bit_for_bit_as_an_undisturbed_one(pair) -> None:
    assert pair[0]["resumed"] == pair[1]["resumed"] == pair[0]["numbers"][UNDISTURBED]


def test_gradients_are_summed_dense_and_sparse(pair) -> None:
    assert pair[0]["gradients"] == pair[1]["gradients"] == [[3.0] * 3, [3.0, 0.0, 2.0], None]


def test_the_leader_alone_saves_and_its_error_ends_all(pair) -> None:
    assert [found["writes"] for found in pair] == [True, False]
    assert pair[0]["error"] == "DivergedError: validation failed on the leader"
    assert pair[1]["error"] == "PeerFailed: another process failed"


if __name__ == "__main__":
    program(Path(sys.argv[1]))
