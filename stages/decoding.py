"""What a config asks of the decoding of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..features.config import ExtractConfig
from ..features.decoding.boxes import WHOLE, image_view_cuts
from ..features.decoding.item import Crop, DecodePlan
from ..features.decoding.transform import ImageTransform

WHOLE_IMAGES = "joint"  # the column of whole images, beside the crops of the image views


def extraction_plan(
    transform: ImageTransform, config: ExtractConfig, whole_images: bool = False
) -> DecodePlan:
    """The columns `image.*` of the image views, and `WHOLE_IMAGES` if they are asked for."""
    columns = {
        f"image.{view}": [Crop(cut, transform) for cut in image_view_cuts(view, config.crops)]
        for view in config.image_views
    }
    if whole_images:
        columns[WHOLE_IMAGES] = [Crop(WHOLE, transform)]
    return decode_plan(columns, config, config.image_pooling == "first")


def decode_plan(columns: Mapping[str, Sequence[Crop]], config: ExtractConfig, first_only: bool) -> DecodePlan:
    """These columns within the config's limits."""
    return DecodePlan(
        columns,
        max_pixels=config.max_image_pixels,
        exif_rotate=config.exif_rotate,
        first_only=first_only,
        seconds=config.decode_seconds,
        memory_mb=config.decode_memory_mb,
    )
