import torch
import torch.nn.functional as F

from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.slmrec import SLMRec

USERS, ITEMS = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 3, 0, 1, 3])  # item 2 is cold
BATCH = torch.tensor([0, 2, 2]), torch.tensor([3, 1, 3]), torch.tensor([2, 2, 0])


def build(absent: tuple[int, ...] = (), views: int = 2, **options: object) -> SLMRec:
    torch.manual_seed(0)
    modalities = {}
    for number in range(views):
        values, present = torch.randn(4, 3 + number), torch.ones(4, dtype=torch.bool)
        if number == 0:
            present[list(absent)] = False
        modalities[f"view{number}"] = Modality(values * present.unsqueeze(1), present)
    data = TrainingData(3, 4, USERS, ITEMS, modalities)
    model = model_class("slmrec")(data, 4, validate_options("slmrec", options))
    assert isinstance(model, SLMRec)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def test_it_joins_a_lightgcn_pass_of_every_view() -> None:
    for fusion in ("concat", "mean"):
        model = build(absent=(0,), fusion=fusion)
        inner = model.fusion
        starts = [inner.item.weight]
        for projection in inner.projections:
            unit = F.normalize(projection.features, dim=1)
            starts.append(projection.linear(unit) * projection.present.unsqueeze(1))
        passes = [model.graph.propagate(inner.user.weight, start, 3) for start in starts]
        users, items = zip(*passes, strict=True)
        join = (
            (lambda x: torch.cat(x, dim=1)) if fusion == "concat" else (lambda x: torch.stack(x).mean(dim=0))
        )
        ours = model()
        assert torch.allclose(ours[0], inner.read_user(join(users)), atol=1e-5)
        assert torch.allclose(ours[1], inner.read_item(join(items)), atol=1e-5)


def test_an_item_without_the_view_has_no_part_in_recognising_it() -> None:
    users, items, negatives = BATCH
    model = build(absent=(1,), views=1, reg_weight=0.0)
    without = model.loss(users[[0, 2]], items[[0, 2]], negatives[[0, 2]])["ssl"]  # item 3 twice
    assert torch.allclose(model.loss(*BATCH)["ssl"], without)
    assert torch.isfinite(build(absent=(0, 1, 2, 3), views=2).loss(*BATCH)["loss"])


def test_scores_are_of_the_current_parameters_unless_as_released() -> None:
    for released in (False, True):
        model = build(as_released=released)
        before = model.vectors().users
        model.loss(*BATCH)["loss"].backward()
        assert (model.vectors().users == before).all()
        with torch.no_grad():
            model.fusion.user.weight.add_(1)
        assert bool((model.vectors().users == before).all()) is released


def test_the_representations_a_released_model_scores_with_are_saved() -> None:
    model, other = build(as_released=True), build(as_released=True)
    model.loss(*BATCH)
    with torch.no_grad():
        model.fusion.user.weight.add_(1)
    other.load_state_dict(model.state_dict())
    assert (other.vectors().users == model.vectors().users).all()
