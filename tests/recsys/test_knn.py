import torch
import torch.nn.functional as F

from mmrec.recsys.knn import nearest_items
from mmrec.recsys.modalities import Modality


def modality(rows: list[list[float]], absent: tuple[int, ...] = ()) -> Modality:
    present = torch.ones(len(rows), dtype=torch.bool)
    present[list(absent)] = False
    return Modality(torch.tensor(rows) * present.unsqueeze(1), present)


ANGLES = modality([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [5.0, 1.0]])  # 0, 90, 45 and 11 degrees


def test_nearest_by_cosine_whatever_the_length() -> None:
    neighbours, cosines = nearest_items(ANGLES, k=2)
    assert neighbours.tolist() == [[0, 3], [1, 2], [2, 3], [3, 0]]
    assert torch.allclose(cosines[1], torch.tensor([1.0, 0.5**0.5]))
    neighbours, _ = nearest_items(ANGLES, k=2, include_self=False)
    assert neighbours.tolist() == [[3, 2], [2, 3], [3, 0], [0, 2]]


def test_absent_and_zero_items_have_and_are_no_neighbours() -> None:
    rows = [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]  # item 2 is present, but has no direction
    neighbours, cosines = nearest_items(modality(rows, absent=(1,)), k=3)
    assert neighbours.tolist() == [[0, 3, -1], [-1, -1, -1], [-1, -1, -1], [3, 0, -1]]
    assert cosines.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_ties_go_to_the_lower_item_but_an_item_keeps_itself() -> None:
    copies = modality([[1.0, 1.0]] * 5)
    assert nearest_items(copies, k=2)[0].tolist() == [[0, 1], [1, 0], [2, 0], [3, 0], [4, 0]]
    assert nearest_items(copies, k=2, include_self=False)[0][4].tolist() == [0, 1]


def test_nobody_left_to_be_a_neighbour() -> None:
    assert nearest_items(modality([[1.0], [2.0]], absent=(0, 1)), k=1)[0].tolist() == [[-1], [-1]]
    alone = nearest_items(modality([[1.0], [2.0]], absent=(0,)), k=1, include_self=False)
    assert alone[0].tolist() == [[-1], [-1]]


def test_blocks_do_not_change_the_result() -> None:
    torch.manual_seed(0)
    present = torch.rand(500) > 0.1
    view = Modality(torch.randn(500, 3) * present.unsqueeze(1), present)
    whole, cosines = nearest_items(view, k=7)
    blocked, same_cosines = nearest_items(view, k=7, memory_mb=1)  # about 145 items at once
    assert (whole == blocked).all()
    assert torch.allclose(cosines, same_cosines, atol=1e-6)
    unit = F.normalize(view.values[present], dim=1)
    assert torch.allclose(cosines[present], (unit @ unit.T).topk(7).values, atol=1e-6)
