import math

import pytest
import torch

from mmrec.features.pretraining.losses import (
    contrastive_loss,
    joint_loss,
    patch_pixels,
    pixel_loss,
    teacher_loss,
    token_loss,
)


def test_patch_pixels_are_normalised_by_patch_and_in_order() -> None:
    image = torch.zeros(1, 3, 4, 4)
    image[0, :, 0, 2] = 7.0  # one column of the second patch of the first row: 3 of its 12 numbers
    patches = patch_pixels(image, 2)
    assert patches.shape == (1, 4, 12)
    assert patches[0, [0, 2, 3]].abs().max() == 0  # flat patches
    # mean 7/4, deviation 7 sqrt(1/4 * 3/4)
    expected = {(1 - 0.25) / math.sqrt(0.1875), -0.25 / math.sqrt(0.1875)}
    assert sorted(set(patches[0, 1].tolist())) == pytest.approx(sorted(expected), abs=1e-4)


def test_token_loss_sums_the_negative_log_likelihood() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    assert token_loss(logits, torch.tensor([0, 1])).item() == pytest.approx(math.log(2) + math.log(4))


def test_pixel_loss_sums_over_patches_and_averages_over_pixels() -> None:
    assert pixel_loss(torch.zeros(2, 4), torch.tensor([[1.0] * 4, [2.0] * 4])).item() == pytest.approx(1 + 4)


def test_teacher_loss_sees_directions_alone() -> None:
    predicted = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert teacher_loss(predicted, torch.tensor([[1.0, 0.0], [1.0, 0.0]])).item() == pytest.approx(1.0)


def test_contrastive_loss_is_the_mean_of_both_directions() -> None:
    images, texts = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    own = torch.eye(2, dtype=torch.bool)
    # logits [[1, 1], [0, 0]]: by rows log 2 twice; by columns log(1 + 1/e) and log(1 + e)
    expected = (2 * math.log(2) + math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    assert contrastive_loss(images, texts, torch.tensor(1.0), own).item() == pytest.approx(expected)


def test_items_that_cannot_be_told_apart_are_no_negatives() -> None:
    rows = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    twins = torch.eye(3, dtype=torch.bool)
    twins[0, 1] = twins[1, 0] = True
    everything = torch.ones(3, 3, dtype=torch.bool)
    scale = torch.tensor(5.0)
    assert contrastive_loss(rows, rows.flip(0), scale, everything).item() == pytest.approx(0, abs=1e-6)
    without = contrastive_loss(rows[[0, 2]], rows[[0, 2]], scale, torch.eye(2, dtype=torch.bool))
    pair = contrastive_loss(rows[[1, 2]], rows[[1, 2]], scale, torch.eye(2, dtype=torch.bool))
    of_first = torch.logaddexp(scale, scale * rows[0] @ rows[2]) - scale
    of_second = torch.logaddexp(scale, scale * rows[1] @ rows[2]) - scale
    assert without.item() == pytest.approx(2 * of_first.item(), rel=1e-4)
    third = torch.stack([scale * rows[2] @ rows[0], scale * rows[2] @ rows[1], scale]).logsumexp(0) - scale
    expected = of_first + of_second + third
    assert contrastive_loss(rows, rows, scale, twins).item() == pytest.approx(expected.item(), rel=1e-4)
    assert pair.item() == pytest.approx(2 * of_second.item(), rel=1e-4)


def test_joint_loss_finds_the_own_image_and_the_own_text() -> None:
    joint, images, texts = torch.eye(2)[:1], torch.eye(2), torch.eye(2).flip(0)
    scale, none = torch.tensor(2.0), torch.tensor([[True, False]])
    # image: logits 2, 0; text: logits 0, 2
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert joint_loss(joint, images, texts, scale, torch.tensor([0]), none).item() == pytest.approx(expected)
    everything = torch.tensor([[True, True]])  # nothing to tell apart
    assert joint_loss(joint, images, texts, scale, torch.tensor([1]), everything).item() == 0
