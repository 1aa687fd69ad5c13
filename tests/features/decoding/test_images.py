import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrec.features.decoding.images import opened, upright_rgb
from mmrec.features.errors import REASONS, ImageFailure

MAX_PIXELS = 1_000_000
MAX_BYTES = 10_000


def decode_image(content: bytes, max_pixels: int, exif_rotate: bool = True) -> Image.Image:
    with opened(content, max_pixels) as image:
        return upright_rgb(image, exif_rotate)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # pyright: ignore
    return file.getvalue()


def pixels(content: bytes, **options: bool) -> np.ndarray:
    image = decode_image(content, MAX_PIXELS, **options)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def failure(content: bytes) -> ImageFailure:
    with pytest.raises(ImageFailure) as caught:
        decode_image(content, MAX_PIXELS)
    assert caught.value.reason in REASONS
    return caught.value


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def gradient(width: int = 32, height: int = 24) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=-1).astype(np.uint8)


def test_grey_and_colour_stay_as_they_are() -> None:
    colour = gradient()
    assert (pixels(encode(Image.fromarray(colour))) == colour).all()
    grey = Image.fromarray(colour[..., 0])
    assert (pixels(encode(grey)) == colour[..., :1]).all()


def test_cmyk_jpegs_keep_their_colours() -> None:
    colour = gradient()
    content = encode(Image.fromarray(colour).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(pixels(content) - colour).mean() < 3


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = np.array([[0, 257, 32768, 65535]], np.uint16)
    content = encode(Image.fromarray(grey))
    assert pixels(content)[0].tolist() == [[0] * 3, [1] * 3, [128] * 3, [255] * 3]  # round(v / 257)
    assert pixels(encode(Image.fromarray(grey), "TIFF"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_grey_with_a_transparent_value_turns_white_there() -> None:
    raw = b"\0" + struct.pack(">HH", 1000, 30000)
    content = png(2, 1, 16, 0, raw, (b"tRNS", struct.pack(">H", 1000)))
    assert pixels(content)[0, :, 0].tolist() == [255, 117]


def test_16_bit_colour_keeps_its_colours() -> None:
    raw = b"\0" + struct.pack(">HHHHHH", 65535, 0, 257 * 77, 257 * 3, 65535, 0)
    assert pixels(png(2, 1, 16, 2, raw))[0].tolist() == [[255, 0, 77], [3, 255, 0]]


def test_32_bit_and_float_pixels_have_no_known_range() -> None:
    assert failure(encode(Image.fromarray(np.array([[70000]], np.int32)), "TIFF")).reason == "unreadable"
    assert failure(encode(Image.fromarray(np.array([[0.5]], np.float32)), "TIFF")).reason == "unreadable"


def test_palettes_with_transparency_are_composited_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 10, 10, 10, 200])
    image.putpixel((1, 0), 1)
    assert pixels(encode(image))[0].tolist() == [[200, 10, 10], [10, 10, 200]]
    assert pixels(encode(image, transparency=0))[0].tolist() == [[255, 255, 255], [10, 10, 200]]


def test_alpha_is_composited_on_white() -> None:
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 51]]], np.uint8)
    assert pixels(encode(Image.fromarray(rgba)))[0].tolist() == [[255] * 3, [10, 20, 30], [204] * 3]
    grey = Image.fromarray(rgba[..., [0, 3]], "LA")
    assert pixels(encode(grey))[0].tolist() == [[255] * 3, [10] * 3, [204] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation: int) -> None:
    upright = gradient()
    undo = {  # how a camera stores what must be shown upright
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = np.ascontiguousarray(undo[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(stored), "PNG", exif=exif)
    assert (pixels(content) == upright).all()
    assert (pixels(content, exif_rotate=False) == stored).all()
    jpeg = encode(Image.fromarray(stored), "JPEG", exif=exif, quality=95)
    assert np.abs(pixels(jpeg) - upright).mean() < 3


def test_damaged_exif_beside_sound_pixels_is_ignored() -> None:
    content = encode(Image.fromarray(gradient()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f", quality=95)
    assert np.abs(pixels(content) - gradient()).mean() < 3


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert pixels(content)[0, 0].tolist() == [255, 0, 0]


def test_other_bytes_are_refused_with_the_right_reason() -> None:
    jpeg = encode(Image.fromarray(gradient(300, 200)), "JPEG")
    assert failure(b"").reason == "not_an_image"
    assert failure(b"just some text, named poster.jpg").reason == "not_an_image"
    assert failure(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").reason == "not_an_image"
    assert failure(jpeg[: len(jpeg) // 2]).reason == "truncated"
    assert failure(jpeg[:50]).reason in ("truncated", "corrupt")
    assert failure(b"\x89PNG\r\n\x1a\n" + b"\0" * 50).reason == "corrupt"


def test_bombs_are_refused_from_the_header() -> None:
    assert failure(png(50_000, 50_000, 8, 2, b"")).reason == "bomb"
    assert failure(png(1000, 1001, 8, 2, b"")).message.startswith("1000 x 1001 pixels")
    assert failure(png(1, 501, 8, 2, b"")).reason == "bomb"  # would be 224 x 112,224 after a resize
    assert decode_image(encode(Image.new("RGB", (1000, 1000))), MAX_PIXELS).size == (1000, 1000)


CUT = [("JPEG", {}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("PPM", {}), ("ICO", {}), ("TIFF", {})]
CUT += [("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}), ("AVIF", {}), ("JPEG2000", {})]


@pytest.mark.parametrize(("kind", "options"), CUT)
def test_a_file_that_lacks_its_end_is_called_truncated(kind: str, options: dict[str, str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    content = encode(Image.fromarray(noise), kind, **options)
    for share in range(5, 100, 3):
        assert failure(content[: len(content) * share // 100]).reason == "truncated", share


def test_much_metadata_is_read_over_and_a_bomb_in_it_refused() -> None:
    raw, noise = bytes(4 * 2), np.random.default_rng(0).bytes(3_000_000)
    assert pixels(png(1, 2, 8, 2, raw, (b"iCCP", b"icc\0\0" + zlib.compress(noise)))).shape == (2, 1, 3)
    zeros = zlib.compress(bytes(10_000_000))
    many = [(b"zTXt", b"k\0\0" + zeros)] * 9  # 90 MB of text in 90 kB
    assert failure(png(1, 2, 8, 2, raw, *many)).reason == "bomb"


def test_what_its_decoder_only_calls_unknown_has_its_reason() -> None:
    heif = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    assert failure(heif).reason == "unreadable" and "of HEIF; what is read is JPEG" in failure(heif).message
    avif = encode(Image.fromarray(gradient(300, 200)), "AVIF")
    sizes = struct.pack(">II", 300, 200), struct.pack(">II", 60_000, 60_000)
    assert failure(avif.replace(*sizes)).reason == "bomb"
    assert failure(b"RIFF\x24\0\0\0WAVEfmt " + bytes(50)).reason == "not_an_image"


def test_the_callers_limit_holds_above_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode_image(encode(Image.new("L", (100, 100))), MAX_PIXELS).size == (100, 100)


SAMPLES = [
    encode(Image.fromarray(gradient()), kind)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "PPM")
]


@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=4)), max_size=5))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_damaged_images_give_pixels_or_a_failure_and_never_another_error(
    content: bytes, damage: list[tuple[int, bytes]]
) -> None:
    damaged = bytearray(content)
    for start, patch in damage:
        start %= len(damaged)
        damaged[start : start + len(patch)] = patch
    try:
        assert decode_image(bytes(damaged), MAX_PIXELS).mode == "RGB"
    except ImageFailure as error:
        assert error.reason in REASONS and error.message
