"""What encoders share."""

import torch

from mmrec.features.encoders.trainable import load_trainable_images


def test_exact_convolutions_are_cudnns_still(timm_checkpoint) -> None:
    """`flags` of cuDNN switches it off where it is not told to leave it on."""
    encoder = load_trainable_images(timm_checkpoint, device="cpu", image_size=32)
    seen, cudnn = [], torch.backends.cudnn
    encoder.module.register_forward_pre_hook(lambda *_: seen.append((cudnn.enabled, cudnn.allow_tf32)))
    encoder.image_vectors(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert seen == [(True, False)]
