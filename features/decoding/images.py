"""RGB pixels from whatever the bytes of an image hold; each failure has a reason."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..errors import ImageFailure, first_line
from .headers import avif_pixels, is_cut_short, is_image, unread_format

MAX_ASPECT = 500  # a 100,000 x 1 image resized to a short side of 224 would be a bomb of its own

# What Pillow decodes by itself and knows by its magic bytes: EPS would start Ghostscript, TGA fits any bytes.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {  # EXIF orientation -> what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextmanager
def opened(content: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image with its header read and its size judged from that, before any pixel is decoded.

    What goes wrong with it in the block is an ImageFailure too, but for a MemoryError where a decoder lacks
    memory.
    """
    try:
        with _open(content, max_pixels) as image:
            _check_size(image, max_pixels)
            yield image
    except (ImageFailure, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = first_line(error).partition(" exceeds")[0]  # what follows is about twice the limit
        raise ImageFailure("bomb", f"more than {max_pixels} pixels: {found}") from error
    except UnidentifiedImageError as error:
        raise _unidentified(content, max_pixels) from error
    except Exception as error:  # decoders of hostile bytes raise anything; the ledger keeps the reason
        if "MAX_TEXT_" in str(error):  # Pillow's names for how much a PNG may say beside its pixels
            raise ImageFailure("bomb", first_line(error)) from error
        if "memory" in str(error).lower():  # how the C libraries say so
            raise MemoryError(first_line(error)) from error
        cut = "truncated" in str(error).lower() or is_cut_short(content)
        raise ImageFailure("truncated" if cut else "corrupt", first_line(error)) from error


def upright_rgb(image: Image.Image, exif_rotate: bool) -> Image.Image:
    """The first frame of an opened image as RGB, upright when `exif_rotate`.

    16-bit grey is scaled, not clipped; transparency is composited on white; palettes and CMYK become RGB.
    """
    image.load()
    turn = upright_turn(image) if exif_rotate else None
    rgb = _to_rgb(image)
    return rgb.transpose(turn) if turn is not None else rgb


def _open(content: bytes, max_pixels: int) -> Image.Image:
    if not content:
        raise ImageFailure("not_an_image", "the file is empty (0 bytes)")
    ceiling = Image.MAX_IMAGE_PIXELS
    if ceiling is not None and ceiling < max_pixels:  # Pillow would refuse what the caller allows
        Image.MAX_IMAGE_PIXELS = max_pixels
    return Image.open(io.BytesIO(content), formats=known_formats())


@functools.cache
def known_formats() -> tuple[str, ...]:
    """What this Pillow decodes, by its names; loads the decoders."""
    Image.init()
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY  # profiles of a few MiB are no attack
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageFailure("corrupt", f"{width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageFailure("bomb", f"{width} x {height} pixels; at most {max_pixels} are decoded")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageFailure("bomb", f"{width} x {height} pixels: sides differ by more than {MAX_ASPECT} times")


def _unidentified(content: bytes, max_pixels: int) -> ImageFailure:
    size = f"{len(content)} bytes"
    if unread := unread_format(content):
        return ImageFailure("unreadable", f"{size} of {unread}; what is read is {', '.join(known_formats())}")
    if avif_pixels(content) > max_pixels:
        return ImageFailure("bomb", f"{avif_pixels(content)} pixels; at most {max_pixels} are decoded")
    if is_cut_short(content):
        return ImageFailure("truncated", f"{size}, fewer than the file itself speaks of")
    if is_image(content):
        return ImageFailure("corrupt", f"{size} with the start of an image but a damaged header")
    return ImageFailure("not_an_image", f"{size} in no known image format")


def is_plain_jpeg(image: Image.Image) -> bool:
    """Whether an opened image is a JPEG of grey or of colours as they are."""
    return image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")


def upright_turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an opened image upright, by its EXIF tag."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata beside sound pixels: show them as stored, as browsers do
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise ImageFailure("unreadable", "floating-point pixels have no defined range; save 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(rgba, mask=rgba)  # to the grey level what alpha_composite gives, in half the memory
        return white
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Grey 0..65535 as RGB 0..255: Pillow's own conversion would turn everything past 255 white."""
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 65535:
        raise ImageFailure("unreadable", "32-bit pixels have no defined range; save 8 or 16 bits")
    scaled = ((grey.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    transparent = image.info.get("transparency")  # PNG's tRNS: one grey value that is see-through
    if isinstance(transparent, int):
        scaled[grey == transparent] = 255
    return Image.fromarray(scaled).convert("RGB")
