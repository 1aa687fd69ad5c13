"""Small pictures of items, decoded in processes of their own, as the addresses that hold them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image

from ...features.catalog import Catalog
from ...features.config import ExtractConfig
from ...features.decoding.boxes import WHOLE
from ...features.decoding.item import Crop, Decoded
from ...features.decoding.pool import DecodePool
from ...features.decoding.transform import ImageTransform
from ..decoding import decode_plan
from ..encoding import image_reader, read_ahead
from ..progress import progress_bar
from .items import NO_PICTURE, Picture, catalog_rows

SIDE = 144  # pixels of the longer side: enough for screens with two to a point
_MOST_BYTES = 7000  # of a picture; one that takes more is made coarser
_QUALITIES = (75, 55, 35, 20)
# A picture that is fitted into a square is padded; what differs between two paddings is no picture.
_ON_BLACK, _ON_WHITE = "black", "white"


def thumbnails(
    catalog: Catalog, item_ids: Iterable[str], extract: ExtractConfig
) -> Mapping[str, Picture | str]:
    """The first readable picture of each item that the catalogue has, or in a few words why there is none.

    Limits and workers are those of `extract`; a picture that takes its decoder down costs that picture.
    """
    rows = catalog_rows(catalog, item_ids)
    if not rows or not any(catalog.images[row] for row in rows.values()):
        return {}
    fit = partial(ImageTransform, (SIDE, SIDE), "longest")
    plan = decode_plan(
        {
            _ON_BLACK: [Crop(WHOLE, fit(fill=(0, 0, 0)))],
            _ON_WHITE: [Crop(WHOLE, fit(fill=(255, 255, 255)))],
        },
        extract,
        first_only=True,
    )
    found: dict[str, Picture | str] = {}
    reader = image_reader(catalog, extract)
    with (
        progress_bar("pictures", len(rows)) as advance,
        ThreadPoolExecutor(extract.workers) as threads,
        DecodePool(plan, extract.workers) as pool,
    ):
        read = read_ahead(threads, reader, (catalog.images[row] for row in rows.values()))
        for item_id, item in zip(rows, pool.map(found.images for found in read), strict=True):
            found[item_id] = _shown(item)
            advance()
    return found


def _shown(item: Decoded) -> Picture | str:
    if item.pixels[_ON_BLACK]:
        return encoded(unpadded(item.pixels[_ON_BLACK][0], item.pixels[_ON_WHITE][0]))
    return f"picture {item.failures[0].reason.replace('_', ' ')}" if item.failures else NO_PICTURE


def unpadded(on_black: np.ndarray, on_white: np.ndarray) -> np.ndarray:
    """(3, h, w) without the padding, which is where the two, of the same shape, differ most."""
    padding = (on_black == 0).all(axis=0) & (on_white == 255).all(axis=0)  # (h, w)
    rows, columns = np.flatnonzero(~padding.all(axis=1)), np.flatnonzero(~padding.all(axis=0))
    return on_black[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def encoded(pixels: np.ndarray) -> Picture:
    """(3, h, w) uint8 as a JPEG of at most `_MOST_BYTES`, or of the least quality."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    content = b""
    for quality in _QUALITIES:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality, optimize=True)
        content = stream.getvalue()
        if len(content) <= _MOST_BYTES:
            break
    address = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
    return Picture(address, image.width, image.height)
