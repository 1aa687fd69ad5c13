"""Pictures come out as the encoders' own libraries prepare them."""

from itertools import product

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from timm.data.transforms_factory import create_transform

from mmrec.features.decoding.transform import ImageTransform
from mmrec.features.encoders.open_clip import _transform as transform_of_open_clip
from mmrec.features.encoders.timm_encoder import _transform as transform_of_timm
from mmrec.features.errors import InputError

SIZES = [(300, 450), (451, 299), (60, 60), (31, 200), (640, 33), (9, 14), (3, 1)]


def picture(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(width)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [64, (64, 64), (48, 96)])
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_those_of_open_clip(size, resize, interpolation) -> None:
    settings = PreprocessCfg(size=size, resize_mode=resize, interpolation=interpolation, fill_color=7)
    theirs = image_transform_v2(settings, is_train=False)
    theirs.transforms = theirs.transforms[:-2]
    ours = transform_of_open_clip(settings)
    for shape in SIZES:
        expected = np.asarray(theirs(picture(*shape))).transpose(2, 0, 1)
        found = ours(picture(*shape))
        assert found.shape == expected.shape and (found == expected).all(), shape


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
@pytest.mark.parametrize(("mode", "share"), product(["center", "border", "squash", None], [1.0, 0.875, 1.2]))
def test_pixels_are_those_of_timm(size, mode, share) -> None:
    settings = {
        **{"input_size": (3, *size), "interpolation": "bilinear", "crop_pct": share, "crop_mode": mode},
        **{"mean": (0.5, 0.4, 0.3), "std": (0.5, 0.5, 0.5)},
    }
    theirs, ours = create_transform(**settings, use_prefetcher=True), transform_of_timm("a model", settings)
    for shape in SIZES:
        assert (ours(picture(*shape)) == np.asarray(theirs(picture(*shape)))).all(), shape


def test_a_random_interpolation_is_refused() -> None:
    settings = {"input_size": (3, 8, 8), "interpolation": "random", "crop_pct": 1.0, "crop_mode": "center"}
    with pytest.raises(InputError, match="resizes by 'random'; expected one of nearest, box"):
        transform_of_timm("model", settings)


def test_a_sliver_keeps_a_pixel_of_its_short_side() -> None:
    assert ImageTransform((8, 8), "longest", fill=(1, 2, 3))(picture(900, 2)).shape == (3, 8, 8)
