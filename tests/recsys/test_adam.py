import subprocess
import sys

import pytest
import torch
from torch import nn

from mmrec.recsys.adam import Adam
from mmrec.recsys.errors import InputError


class Tables(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.looked_up = nn.Embedding(6, 3, sparse=sparse)
        self.map = nn.Linear(3, 2)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (self.map(self.looked_up(rows)) + self.looked_up(rows.flip(0))[:, :2]).square().sum()


@pytest.mark.parametrize("sparse", [False, True])
def test_it_takes_the_steps_of_torch(sparse: bool) -> None:
    ours, theirs = Tables(sparse), Tables(False)
    adam, reference = Adam(ours, 0.1), torch.optim.Adam(theirs.parameters(), lr=0.1)
    for step in range(5):
        rows = torch.tensor([step, 0, 0, 5 - step])  # row 0 and the moments of the others move on
        ours(rows).backward()
        adam.step()
        reference.zero_grad()
        theirs(rows).backward()
        reference.step()
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter, theirs.get_parameter(name), atol=1e-6), name
        assert parameter.grad is None
    assert torch.equal(ours.unused, torch.ones(2))


def test_a_restored_state_goes_on_bit_for_bit() -> None:
    rows = torch.tensor([1, 2])
    model = Tables(True)
    adam = Adam(model, 0.1)
    for _ in range(2):
        model(rows).backward()
        adam.step()
    other = Tables(True)
    other.load_state_dict(model.state_dict())
    resumed = Adam(other, 0.1)
    resumed.restore({name: value.clone() for name, value in adam.tensors()})
    for one, optimizer in ((model, adam), (other, resumed)):
        one(rows).backward()
        optimizer.step()
    assert all(torch.equal(p, other.get_parameter(name)) for name, p in model.named_parameters())
    with pytest.raises(InputError, match="another model"):
        resumed.restore({"gone.exp_avg": torch.zeros(1)})


def test_the_compiler_of_torch_is_not_loaded() -> None:
    code = (
        "import sys, torch; from mmrec.recsys.adam import Adam; m = torch.nn.Linear(2, 1);"
        "a = Adam(m, 0.1); m(torch.ones(1, 2)).sum().backward(); a.step();"
        "print('torch._dynamo' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "False"
