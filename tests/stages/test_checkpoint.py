import torch

from mmrec.stages.checkpoint import FileCheckpoint


def test_a_state_reads_back_and_another_runs_state_does_not(tmp_path) -> None:
    checkpoint = FileCheckpoint(tmp_path / "state.safetensors", key="a")
    assert checkpoint.load() is None
    checkpoint.save(
        {"weight": torch.arange(3), "step": torch.tensor(2.0)}, {"epoch": 4, "history": [{"loss": 0.5}]}
    )
    loaded = checkpoint.load()
    assert loaded is not None
    tensors, state = loaded
    assert tensors["weight"].tolist() == [0, 1, 2] and tensors["step"].item() == 2.0
    assert state == {"epoch": 4, "history": [{"loss": 0.5}]}
    assert FileCheckpoint(tmp_path / "state.safetensors", key="b").load() is None
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []
