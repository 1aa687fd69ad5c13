"""The contrastive batch: whole or in pieces, with duplicates, with crops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmrec.features.encoders.trainable import load_trainable
from mmrec.features.finetuning.config import FinetuneConfig
from mmrec.features.finetuning.contrastive import ContrastiveTask
from mmrec.features.finetuning.gradient_cache import GradientCache
from mmrec.features.finetuning.pairs import PairBatch, draw_boxes
from mmrec.features.pretraining.items import Items
from mmrec.features.pretraining.losses import contrastive_loss


def items(n: int, side: int, texts: list[list[int]], groups: list[int] | None = None) -> Items:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, side, side), dtype=np.uint8)
    return Items(pixels, np.ones(n, bool), texts, np.arange(n), np.array(groups or range(n)))


def gradients(task: ContrastiveTask, batch: PairBatch) -> tuple[float, dict[str, Tensor]]:
    task.module.zero_grad()
    value = 0.0
    for losses in task.losses(batch, slice(0, len(batch)), task.totals(batch), lambda rows: rows):
        losses["contrastive"].backward()
        value += float(losses["contrastive"].detach())
    return value, {name: p.grad.clone() for name, p in task.module.named_parameters() if p.grad is not None}


def tiny_task(groups: list[int] | None = None, **settings) -> tuple[ContrastiveTask, PairBatch]:
    encoder = load_trainable("tiny", device="cpu")
    encoder.module.double()
    texts = [encoder.tokenize(text) for text in ("a mug", "blue lamp", "red", "boot", "hat by Juno")]
    task = ContrastiveTask(encoder, items(5, 64, texts, groups), FinetuneConfig(**settings))
    task.begin()
    return task, task.draw(np.arange(5), np.random.default_rng(0))


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_pieces_have_the_gradient_of_the_whole_batch(micro_batch) -> None:
    (whole, batch), (pieces, _) = tiny_task(crop=0.5), tiny_task(crop=0.5, micro_batch=micro_batch)
    value, expected = gradients(whole, batch)
    found_value, found = gradients(pieces, batch)
    assert found_value == pytest.approx(value, abs=1e-12) and found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.dtype == torch.float64
        torch.testing.assert_close(found[name], gradient, atol=1e-9, rtol=0)


def test_dropout_is_drawn_alike_in_both_passes() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5))
    inputs, target = torch.randn(7, 4), torch.randn(7, 6)
    cache = GradientCache(lambda rows: layer(inputs[rows]), np.arange(7), 3)
    vectors = cache.vectors().requires_grad_()
    (gradient,) = torch.autograd.grad((vectors * target).sum().square(), [vectors])
    after = torch.get_rng_state()
    for surrogate in cache.surrogates(gradient):
        surrogate.backward()
    kept = vectors.detach() != 0
    expected = (kept * gradient * 2).sum(dim=0)  # dropout scales what it keeps by 2
    torch.testing.assert_close(layer[0].bias.grad, expected)
    assert torch.equal(torch.get_rng_state(), after)


def test_duplicates_are_no_negatives_of_each_other() -> None:
    task, batch = tiny_task(groups=[0] * 5)
    assert gradients(task, batch)[0] == 0.0
    task, batch = tiny_task(groups=[0, 0, 2, 3, 4])
    images, texts = (side.detach() for side in task._encode(batch.rows, batch.boxes).unbind(dim=1))
    same = torch.eye(5, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    expected = contrastive_loss(images, texts, task.module.logit_scale.exp(), same) / 5
    assert gradients(task, batch)[0] == pytest.approx(float(expected.detach()), abs=1e-12)


def test_temperatures_stay_below_100() -> None:
    task, _ = tiny_task()
    with torch.no_grad():
        task.module.logit_scale.fill_(9.0)
    task.settle()
    assert float(task.module.logit_scale.detach().exp()) == pytest.approx(100)


def test_rates_fall_with_the_distance_from_the_vectors() -> None:
    task, _ = tiny_task(layer_decay=0.5, weight_decay=0.2)
    rates = {id(p): (g["rate"], g["weight_decay"]) for g in task.groups() for p in g["params"]}
    named = dict(task.module.named_parameters())
    assert rates[id(named["visual.proj"])] == (1.0, 0.2)
    assert rates[id(named["visual.transformer.resblocks.2.mlp.c_fc.weight"])] == (0.25, 0.2)
    assert rates[id(named["visual.transformer.resblocks.0.ln_1.bias"])] == (0.0625, 0.0)
    assert len(rates) == len(named)


def test_a_crop_shows_its_part_of_the_image_at_full_size() -> None:
    boxes = draw_boxes(np.random.default_rng(0), 200, 0.75)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.min() >= 0 and boxes.max() <= 1 and (sides[:, 0] * sides[:, 1]).min() >= 0.25
    np.testing.assert_allclose(sides[:, 0], sides[:, 1])
    task, _ = tiny_task()
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (1, 3, 64, 1))
    object.__setattr__(task.items, "pixels", ramp)
    seen = task._pixels(np.array([0]), np.array([[0.5, 0.0, 1.0, 0.5]]))
    assert seen.shape == (1, 3, 64, 64) and seen.dtype == torch.uint8
    assert seen[0, 0, 5, 0] == pytest.approx(128, abs=3) and seen[0, 0, 5, -1] == pytest.approx(252, abs=3)


def test_an_encoder_without_contrastive_heads_is_refused(beit3: Path) -> None:
    from mmrec.features.errors import InputError

    encoder = load_trainable(f"beit3:{beit3}", device="cpu")
    with pytest.raises(InputError, match="has no heads of contrastive training"):
        ContrastiveTask(encoder, items(2, 32, [[1], [2]]), FinetuneConfig(start=f"beit3:{beit3}"))
