import torch
import torch.nn.functional as F

from mmrec.recsys.unit_rows import unit_rows


def test_rows_and_gradients_are_those_of_normalize_but_zero_rows_have_none() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    x[2] = 0
    x.requires_grad_()
    upstream = torch.randn(4, 3)
    ours, expected = unit_rows(x), F.normalize(x, dim=1)
    assert torch.allclose(ours, expected)
    (gradient,), (theirs,) = (torch.autograd.grad(unit, x, upstream) for unit in (ours, expected))
    kept = [0, 1, 3]
    assert torch.allclose(gradient[kept], theirs[kept], atol=1e-6)
    assert not gradient[2].any()
