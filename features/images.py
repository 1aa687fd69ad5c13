"""Image bytes from wherever they lie, and RGB pixels from whatever they hold; each failure has a reason."""

from __future__ import annotations

import functools
import io
import os
import posixpath
import stat
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from fsspec.core import url_to_fs
from PIL import Image, UnidentifiedImageError

from .errors import InputError, first_line

Reason = Literal[
    "missing", "outside_root", "too_large", "bomb", "not_an_image", "truncated", "corrupt", "unreadable"
]
REASONS: tuple[str, ...] = get_args(Reason)

MAX_ASPECT = 500  # a 100,000 x 1 image resized to a short side of 224 would be a bomb of its own

# What Pillow decodes by itself and knows by its magic bytes: EPS would start Ghostscript, TGA fits any bytes.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*")
_REMOTE = frozenset(
    ("http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "hdfs", "ftp", "sftp", "memory")
)
_LOCAL = frozenset(("file", "local"))

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


class ImageFailure(Exception):
    """Why one image has no pixels: a reason code for machines and a message for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def load_image_bytes(reference: str | bytes, root: str | None, max_bytes: int) -> bytes:
    """The bytes behind a reference: bytes, a URI, or a path below `root` (a folder or a URI).

    Raises ImageFailure, also for a path or link that leads out of `root`; InputError when a URI needs a
    package that is not installed.
    """
    if isinstance(reference, bytes):
        return _bounded(reference, max_bytes, "the image")
    if _scheme(reference) is None and root is not None and _scheme(root) not in (None, *_LOCAL):
        return _read_remote(_join_uri(root, reference), max_bytes)
    if _scheme(reference) in (None, *_LOCAL):
        return _read_local(_without_scheme(reference), root, max_bytes)
    return _read_remote(reference, max_bytes)


def decode_image(content: bytes, max_pixels: int, exif_rotate: bool = True) -> Image.Image:
    """The first frame as an RGB image, upright when `exif_rotate`; thread-safe.

    16-bit grey is scaled, not clipped; transparency is composited on white; palettes and CMYK become RGB.
    Sizes are judged from the header, before any pixel is decoded. Raises ImageFailure.
    """
    try:
        with _open(content, max_pixels) as image:
            _check_size(image, max_pixels)
            image.load()
            turn = _UPRIGHT.get(_orientation(image)) if exif_rotate else None
            upright = _to_rgb(image)
            return upright.transpose(turn) if turn is not None else upright
    except ImageFailure:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageFailure("bomb", f"more than {max_pixels} pixels: {first_line(error)}") from error
    except UnidentifiedImageError as error:
        raise _unidentified(content) from error
    except MemoryError as error:
        raise ImageFailure("unreadable", "not enough memory to decode it") from error
    except Exception as error:  # decoders of hostile bytes raise anything; the ledger keeps the reason
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise ImageFailure(reason, first_line(error)) from error


def _open(content: bytes, max_pixels: int) -> Image.Image:
    if not content:
        raise ImageFailure("not_an_image", "the file is empty (0 bytes)")
    ceiling = Image.MAX_IMAGE_PIXELS
    if ceiling is not None and ceiling < max_pixels:  # Pillow would refuse what the caller allows
        Image.MAX_IMAGE_PIXELS = max_pixels
    return Image.open(io.BytesIO(content), formats=_known_formats())


@functools.cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageFailure("corrupt", f"{width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageFailure("bomb", f"{width} x {height} pixels; at most {max_pixels} are decoded")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageFailure("bomb", f"{width} x {height} pixels: sides differ by more than {MAX_ASPECT} times")


def _unidentified(content: bytes) -> ImageFailure:
    if content.startswith(_MAGIC):
        return ImageFailure(
            "corrupt", f"{len(content)} bytes with the start of an image but a damaged header"
        )
    return ImageFailure("not_an_image", f"{len(content)} bytes in no known image format")


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata beside sound pixels: show them as stored, as browsers do
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise ImageFailure("unreadable", "floating-point pixels have no defined range; save 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
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


def _read_local(reference: str, root: str | None, max_bytes: int) -> bytes:
    if root is None:
        raise ImageFailure("outside_root", f"{reference}: no image_root is set")
    try:
        base = Path(_without_scheme(root)).resolve()
        path = (base / reference).resolve()  # follows links, so a link out of the root is caught below
        if not path.is_relative_to(base):
            raise ImageFailure("outside_root", f"{reference} leads out of image_root {root}")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise ImageFailure("unreadable", f"{reference} is not a file")
        if status.st_size > max_bytes:
            raise _too_large(reference, status.st_size, max_bytes)
        with path.open("rb") as file:
            return _bounded(file.read(max_bytes + 1), max_bytes, reference)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageFailure("missing", f"{reference}: no such file") from error
    except (OSError, RuntimeError, ValueError) as error:  # no permission, a loop of links, a name with \0
        raise ImageFailure("unreadable", f"{reference}: {first_line(error)}") from error


def _read_remote(uri: str, max_bytes: int) -> bytes:
    if _scheme(uri) not in _REMOTE or "::" in uri:  # chained URIs could reach any local file
        raise ImageFailure("unreadable", f"{uri}: expected one of {', '.join(sorted(_REMOTE))}")
    try:
        system, path = url_to_fs(uri)
        with system.open(path, "rb") as file:
            return _bounded(file.read(max_bytes + 1), max_bytes, uri)
    except ImageFailure:
        raise
    except ImportError as error:
        raise InputError(f"{uri}: {first_line(error)}") from error
    except FileNotFoundError as error:
        raise ImageFailure("missing", f"{uri}: no such object") from error
    except Exception as error:  # each store raises its own errors; the ledger keeps the reason
        raise ImageFailure("unreadable", f"{uri}: {first_line(error)}") from error


def _bounded(content: bytes, max_bytes: int, name: str) -> bytes:
    if len(content) > max_bytes:
        raise _too_large(name, len(content), max_bytes)
    return content


def _too_large(name: str, size: int, max_bytes: int) -> ImageFailure:
    return ImageFailure("too_large", f"{name}: {size} bytes or more; at most {max_bytes} are read")


def _scheme(reference: str) -> str | None:
    head, mark, _ = reference.partition("://")
    return head.lower() if mark else None


def _without_scheme(reference: str) -> str:
    return reference.partition("://")[2] if _scheme(reference) in _LOCAL else os.fspath(reference)


def _join_uri(root: str, reference: str) -> str:
    path = posixpath.normpath(reference)
    if path.startswith(("/", "..")):
        raise ImageFailure("outside_root", f"{reference} leads out of image_root {root}")
    return f"{root.rstrip('/')}/{path}"
