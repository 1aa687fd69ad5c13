"""The fast way with JPEGs: Pillow's pixels but for two grey levels, and Pillow's verdicts."""

import io

import numpy as np
import pytest
from PIL import Image

from mmrec.features.decoding import jpeg
from mmrec.features.decoding.boxes import WHOLE, image_view_cuts, pixel_box
from mmrec.features.decoding.images import opened, upright_rgb
from mmrec.features.decoding.item import Crop, decode_crops
from mmrec.features.decoding.transform import ImageTransform
from mmrec.features.errors import ImageFailure

CLIP = ImageTransform((224, 224))
TRANSFORMS = [
    CLIP,
    ImageTransform((224, 224), interpolation="bilinear"),
    ImageTransform((224, 224), "squash"),
    ImageTransform((224, 224), "longest", fill=(9, 8, 7)),
    ImageTransform((96, 160)),
    ImageTransform((160, 96), "longest", "bilinear"),
    ImageTransform((224, 224), resized=(256, 256)),
    ImageTransform((64, 64), "squash", resized=(40, 90)),
]


@pytest.fixture(params=[jpeg._simplejpeg, jpeg._torchvision, lambda: jpeg._pillow])
def decoder(request, monkeypatch) -> None:
    try:
        decode = request.param()
    except ImportError:
        pytest.skip("not installed")
    monkeypatch.setattr(jpeg, "load_decoder", lambda: decode)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise of all scales with hard edges, which overshoot."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3))
    for side in (2, 5, 17, 60):
        blocks = generator.integers(0, 256, (height // side + 1, width // side + 1, 3))
        pixels += np.kron(blocks, np.ones((side, side, 1)))[:height, :width]
    return Image.fromarray((pixels / 4).astype(np.uint8))


def decode_image(content: bytes, exif_rotate: bool = True) -> Image.Image:
    with opened(content, 10**7) as image:
        return upright_rgb(image, exif_rotate)


def encode(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})  # pyright: ignore
    return file.getvalue()


def fast(content: bytes, *crops: Crop, exif_rotate: bool = True) -> list[np.ndarray]:
    pixels = [np.full((3, *crop.transform.size), 77, np.uint8) for crop in crops]
    decode_crops(content, crops, pixels, 10**7, exif_rotate)
    return pixels


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    differences = np.abs(found.astype(int) - expected)
    assert differences.max() <= 2 and differences.mean() < 0.015


@pytest.mark.parametrize(
    "size", [(300, 450), (451, 299), (224, 224), (60, 90), (700, 31), (2, 3), (1000, 999)]
)
def test_every_transform_gives_pillows_pixels_but_for_two_grey_levels(decoder, size) -> None:
    content = encode(photograph(*size))
    image = decode_image(content)
    for transform in TRANSFORMS:
        assert_close(fast(content, Crop(WHOLE, transform))[0], transform(image))


def test_crops_are_cut_from_the_one_picture_before_it_is_resized(decoder) -> None:
    content = encode(photograph(301, 457))
    image = decode_image(content)
    cuts = [*image_view_cuts("quadrants", {}), "center", (0.3, 0.0, 0.9, 0.1)]
    for cut, found in zip(cuts, fast(content, *(Crop(cut, CLIP) for cut in cuts)), strict=True):
        expected = np.empty_like(found)
        CLIP.write(image.crop(pixel_box(cut, 301, 457)), expected)
        assert_close(found, expected)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_ink(decoder, mode) -> None:
    content = encode(photograph(300, 200).convert(mode))
    assert_close(fast(content, Crop(WHOLE, CLIP))[0], CLIP(decode_image(content)))


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"subsampling": "4:2:0"}, {"restart_marker_rows": 1}]
)
def test_every_coding(decoder, options) -> None:
    content = encode(photograph(300, 200), **options)
    assert_close(fast(content, Crop(WHOLE, CLIP))[0], CLIP(decode_image(content)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(decoder, orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(photograph(300, 200), exif=exif)
    for rotate in (True, False):
        expected = CLIP(decode_image(content, exif_rotate=rotate))
        assert_close(fast(content, Crop(WHOLE, CLIP), exif_rotate=rotate)[0], expected)


def verdict(content: bytes, transform: ImageTransform) -> str:
    try:
        fast(content, Crop(WHOLE, transform))
        return "pixels"
    except ImageFailure as failure:
        return f"{failure.reason}: {failure.message}"


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_verdicts_on_damaged_files_are_pillows(decoder, options) -> None:
    content = encode(photograph(120, 90), **options)
    generator = np.random.default_rng(0)
    by_pillow = ImageTransform((224, 224), interpolation="lanczos")  # which has no fast way
    seen = set()
    for share in range(1, 100):
        damaged = bytearray(content[: len(content) * share // 100] if share % 2 else content)
        for at in generator.integers(2, len(damaged), share % 4) if len(damaged) > 2 else []:
            damaged[at] = generator.integers(256)
        found = verdict(bytes(damaged), CLIP)
        assert found == verdict(bytes(damaged), by_pillow)
        seen.add(found.partition(":")[0])
    assert {"pixels", "truncated"} <= seen


def test_a_sliver_is_not_resized_to_its_full_length(decoder) -> None:
    content = encode(photograph(10, 4000))
    assert_close(fast(content, Crop(WHOLE, CLIP))[0], CLIP(decode_image(content)))


def test_posters(decoder, shared) -> None:
    files = sorted((shared / "data" / "movielens-posters" / "images").glob("*.jpg"))[::60]
    for file in files:
        content = file.read_bytes()
        assert_close(fast(content, Crop(WHOLE, CLIP))[0], CLIP(decode_image(content)))
    assert len(files) > 40
