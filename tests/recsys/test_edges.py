import torch

from mmrec.recsys.edges import EdgePattern

ROWS, COLUMNS = torch.tensor([2, 0, 1, 2, 2]), torch.tensor([1, 3, 0, 1, 3])  # (2, 1) occurs twice


def test_entries_of_one_place_add_up() -> None:
    pattern = EdgePattern(ROWS, COLUMNS, (3, 4))
    values = torch.tensor([1.0, 2.0, 3.0, 10.0, 5.0])
    expected = torch.tensor([[0.0, 0, 0, 2], [3, 0, 0, 0], [0, 11, 0, 5]])
    assert torch.equal(pattern.matrix(values).to_dense(), expected)
    assert torch.equal(pattern.matrix(values, transposed=True).to_dense(), expected.T)
    x, y = torch.arange(8.0).view(4, 2), torch.arange(6.0).view(3, 2)
    assert torch.equal(pattern.product(values, x), expected @ x)
    assert torch.equal(pattern.transposed_product(values, y, start=x), x + expected.T @ y)
    assert torch.allclose(pattern.dots(y, x), (y @ x.T)[ROWS, COLUMNS])


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    pattern = EdgePattern(ROWS, COLUMNS, (3, 4))
    values, left, right = (torch.randn(*s, dtype=torch.float64) for s in ((5,), (3, 2), (4, 2)))
    tensors = [tensor.requires_grad_() for tensor in (values, left, right)]
    assert torch.autograd.gradcheck(lambda v, _, x: pattern.product(v, x), tensors)
    assert torch.autograd.gradcheck(lambda v, y, _: pattern.transposed_product(v, y), tensors)
    assert torch.autograd.gradcheck(lambda v, y, x: pattern.product(v, x, start=y), tensors)
    assert torch.autograd.gradcheck(lambda _, a, b: pattern.dots(a, b), tensors)
