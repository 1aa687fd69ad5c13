"""VLMo's own losses: hard negatives, and heads that a checkpoint lacks."""

import numpy as np
import pytest
import torch

from mmrec.features.encoders.registry import build_encoder
from mmrec.features.encoders.vlmo_checkpoint import load_vlmo
from mmrec.features.finetuning.config import FinetuneConfig, LossWeights
from mmrec.features.finetuning.vlmo import VlmoTask, hard_negatives, with_heads
from mmrec.features.pretraining.items import Items


def test_hard_negatives_are_drawn_by_their_logits_and_never_from_duplicates() -> None:
    logits = torch.tensor([[9.0, 1.0, 9.0, 1.0 + np.log(3)]]).expand(4, -1)
    same = torch.tensor([[True, False, True, False]] * 4)
    draws = torch.arange(1000) / 1000
    found = torch.cat([hard_negatives(logits, same, draws[n : n + 4]) for n in range(0, 1000, 4)])
    assert set(found.tolist()) == {1, 3}
    assert (found == 3).float().mean() == pytest.approx(0.75, abs=0.01)
    assert hard_negatives(logits[:1], same[:1] | True, draws[:1]).tolist() == [-1]
    far = torch.tensor([[300.0, 0.0, 300.0, 0.0]])  # what is allowed has no weight left in float32
    assert hard_negatives(far, same[:1], torch.tensor([0.999])).tolist() == [3]


def test_heads_that_a_checkpoint_lacks_are_added_and_the_rest_stays(make_vlmo, tmp_path) -> None:
    model = load_vlmo(make_vlmo(tmp_path / "bare", itc_heads=False, itm_head=False, mlm_head=False))
    complete, fresh = with_heads(model, LossWeights(), seed=0)
    assert {name.partition(".")[0] for name in fresh} >= {"itc_image_proj", "itm_score", "mlm_score"}
    for name, value in model.state_dict().items():
        assert torch.equal(complete.state_dict()[name], value)
    again, _ = with_heads(model, LossWeights(), seed=0)
    assert all(torch.equal(a, b) for a, b in zip(complete.parameters(), again.parameters(), strict=True))
    assert with_heads(complete, LossWeights(), seed=0)[1] == set()


def test_pieces_of_all_three_losses_add_up(vlmo) -> None:
    found = {}
    for micro_batch in (None, 2):
        encoder = build_encoder(f"vlmo:{vlmo}", "fp32", "cpu", None, True, trainable=True)
        encoder.module.requires_grad_(True).double()
        pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
        texts = [encoder.tokenize(text) for text in ("red mug", "blue mug", "a mug", "large", "mugs and")]
        items = Items(pixels, np.ones(5, bool), texts, np.arange(5), np.arange(5))
        task = VlmoTask(encoder, items, FinetuneConfig(micro_batch=micro_batch))
        batch = task.draw(np.arange(5), np.random.default_rng(0))
        totals = task.totals(batch)
        assert totals["matching"] == 15 and totals["mlm"] >= 5
        values = dict.fromkeys(totals, 0.0)
        for losses in task.losses(batch, slice(0, 5), totals, lambda rows: rows):
            for name, loss in losses.items():
                loss.backward()
                values[name] += float(loss.detach())
        grads = {n: p.grad for n, p in encoder.module.named_parameters() if p.grad is not None}
        found[micro_batch] = values, grads
    (values, grads), (piece_values, piece_grads) = found[None], found[2]
    assert values == pytest.approx(piece_values, abs=1e-5)
    assert grads.keys() == piece_grads.keys()
    assert {"itm_score.fc.weight", "mlm_score.bias", "itc_vl_text_proj.fc.weight"} <= grads.keys()
    for name, grad in grads.items():  # cross entropy is computed in float32
        torch.testing.assert_close(piece_grads[name], grad, atol=1e-5, rtol=1e-4)
