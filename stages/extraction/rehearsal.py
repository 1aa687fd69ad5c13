"""An extraction rehearsed: its steps one by one on a sample of the catalogue; nothing is written."""

from __future__ import annotations

import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...features.config import CatalogConfig, ExtractConfig
from ...features.decoding.item import Decoded, Images
from ...features.decoding.pool import DecodePool
from ...features.errors import InputError
from ..decoding import WHOLE_IMAGES, extraction_plan
from ..encoders import Encoders
from ..encoding import image_reader, images_size, read_ahead
from .advice import advise
from .batches import FittingBatches
from .estimate import Alternative, Estimate
from .feed import ROOM
from .pace import TextLoad, seconds_each
from .plan import Plan
from .resources import cores, free_disk, free_memory, memory_of_processes

log = logging.getLogger(__name__)

SAMPLE = 400  # items, from all over the catalogue
SAMPLE_BYTES = 2**30  # of their pictures, past which the sample is smaller
_CROPS = 256  # of these that are encoded
_COMPARED = 32  # crops whose vectors are compared with those of another setting
_HASH = 36  # bytes of a content hash in a shard
_LISTS = 1.006  # bytes in a shard for one of a vector


def rehearse(catalog: CatalogConfig | None, config: ExtractConfig, folder: Path) -> Estimate:
    """What the extraction of the whole catalogue into `folder` would take, and what to change about it.

    All items count as new. Raises InputError for unusable input.
    """
    memory_free = free_memory()
    plan = Plan(catalog, config, folder)
    sample = _Sample(plan)
    read, decode, transform = sample.read(), *sample.decode()
    batches = FittingBatches("images", config.batch_size)
    images, joint = sample.encode(plan.encoders, batches), sample.encode_joint(batches)
    load = TextLoad.of(plan, plan.n_shards // 2) if plan.views else None
    texts = load.seconds_per_item(plan, batches) if load else 0.0
    estimate = Estimate(
        items=len(plan.catalog),
        shards=plan.n_shards,
        sampled=sample.size,
        failed=sample.failed,
        reasons=dict(sample.reasons.most_common()),
        read=read,
        decode=decode,
        transform=transform,
        images=images,
        texts=texts,
        joint=joint,
        workers=config.workers,
        cores=cores(),
        on_gpu=_on_gpu(config),
        batch_size=batches.size,
        disk=sample.disk(load),
        disk_free=free_disk(folder),
        memory=sample.memory(),
        memory_free=memory_free,
        gpu_memory=_gpu_memory(config),
        text_load=load,
    )
    if estimate.limit == "encode":
        estimate.alternatives = [*sample.alternatives()]
    estimate.advice = advise(estimate, config, plan.readers)
    return estimate


class _Sample:
    """Items from all over the catalogue, taken from step to step."""

    def __init__(self, plan: Plan) -> None:
        self._plan, n = plan, len(plan.catalog)
        rows = sorted({round(at) for at in np.linspace(0, n - 1, min(n, SAMPLE))})
        self._rows = np.random.default_rng(0).permutation(rows).tolist()  # the first few are from all over
        self.size = len(rows)
        self._images: list[Images] = []
        self._decoded: list[Decoded] = []
        self._decoding_memory = 0
        self.failed = 0
        self.reasons: Counter[str] = Counter()

    def read(self) -> float:
        """Seconds of one item, with all readers at work."""
        plan = self._plan
        reader = image_reader(plan.catalog, plan.config)
        started = time.perf_counter()
        with ThreadPoolExecutor(plan.readers) as pool:
            references = (plan.catalog.images[row] for row in self._rows)
            room = SAMPLE_BYTES
            for item in read_ahead(pool, reader, references, 2 * plan.readers):
                self._images.append(item.images)
                room -= images_size(item.images)
                if room < 0:
                    break
        self.size = len(self._images)
        del self._rows[self.size :]
        return (time.perf_counter() - started) / self.size

    def decode(self) -> tuple[float, float]:
        """Seconds that one item takes a worker, to decode and to transform."""
        plan = self._plan
        if not plan.reads_images:
            return 0.0, 0.0
        decoding = extraction_plan(plan.encoders.images.transform, plan.config, plan.joint is not None)
        before = memory_of_processes()
        with DecodePool(decoding, plan.config.workers) as pool:
            self._decoded = list(pool.map(self._images))
            pixels = sum(
                crop.nbytes for item in self._decoded for crops in item.pixels.values() for crop in crops
            )
            after = memory_of_processes()
            self._decoding_memory = after - before - pixels if before and after else 0
        for item in self._decoded:
            self.failed += bool(item.failures)
            self.reasons.update(failure.reason for failure in item.failures)
        decode, transform = (
            sum(getattr(item, f"{step}_seconds") for item in self._decoded)
            for step in ("decode", "transform")
        )
        return decode / self.size, transform / self.size

    def encode(self, encoders: Encoders, batches: FittingBatches) -> float:
        """Seconds of one item's image views."""
        every = self._crops()
        if not every:
            return 0.0
        return seconds_each(encoders.images.encode_images, [every[:_CROPS]], batches) * len(every) / self.size

    def encode_joint(self, batches: FittingBatches) -> float:
        """Seconds of one item's joint views, as if each had its pictures and a text."""
        plan = self._plan
        pictures = [crop for item in self._decoded for crop in item.pixels.get(WHOLE_IMAGES, ())]
        if plan.joint is None or not pictures:
            return 0.0
        encoder, fields = plan.encoders.joint, plan.catalog.fields[self._rows].to_dicts()
        texts = [plan.joint.render(row) or "" for row in fields]
        windows = [encoder.tokenize(text)[: encoder.content_length] for text in texts]
        pairs = [[*islice(pictures, len(windows))], windows[: len(pictures)]]
        passes = len(pictures) / self.size * len(plan.config.joint_views)
        return seconds_each(encoder.encode_joint, pairs, batches) * passes

    def alternatives(self) -> list[Alternative]:
        """Other ways to compute the same vectors, as far as this machine has them."""
        config = self._plan.config
        changes: dict[str, dict[str, Any]] = {}
        if config.precision == "fp32":
            changes['extract.precision = "bf16"'] = {"precision": "bf16"}
        if not _on_gpu(config) and config.runtime == "torch" and find_spec("openvino"):
            changes['extract.runtime = "openvino"'] = {"runtime": "openvino"}
            changes['extract.runtime = "openvino" and precision = "bf16"'] = {
                "runtime": "openvino",
                "precision": "bf16",
            }
        crops = self._crops()[:_COMPARED]
        if not crops:
            return []
        found = []
        vectors = self._plan.encoders.images.encode_images(crops)
        for change, update in changes.items():
            encoders = Encoders(config.model_copy(update=update), self._plan.folder)
            try:
                others = encoders.images.encode_images(crops)
            except InputError as error:
                log.debug("%s: %s", change, error)
                continue
            images = self.encode(encoders, FittingBatches("images", config.batch_size))
            found.append(Alternative(change, images, _least_cosine(vectors, others)))
        return found

    def disk(self, load: TextLoad | None) -> int:
        """Bytes of the shards: what is null takes none."""
        plan = self._plan
        with_text = load.texts / (load.items * len(plan.views)) if load else 0.0
        with_image = sum(any(item.pixels.values()) for item in self._decoded) / self.size
        shares = {"image": with_image, "text": with_text}
        similarities = len(plan.views) if plan.main_view is not None else 0
        values = sum(dim * shares.get(view.partition(".")[0], 1.0) for view, dim in plan.dims().items())
        ids = plan.catalog.item_ids
        id_size = ids.estimated_size() / len(ids)
        return round(len(ids) * (2 * _LISTS * values + id_size + _HASH + 4 * similarities))

    def memory(self) -> int | None:
        """Bytes of all processes when the steps overlap: what they take now, without the sample, and what
        waits between them."""
        plan = self._plan
        now = memory_of_processes()
        if now is None:
            return None
        contents = sum(map(images_size, self._images))
        pixels = sum(
            crop.nbytes for item in self._decoded for crops in item.pixels.values() for crop in crops
        )
        waiting = min(ROOM, (contents + pixels) // self.size * len(plan.catalog))
        rows = min(plan.config.shard_rows, len(plan.catalog))
        columns = 3 * rows * 4 * sum(plan.dims().values())  # encoded, written, and rounded for that
        return now - contents - pixels + self._decoding_memory + waiting + columns

    def _crops(self) -> list[np.ndarray]:
        """Of all image views."""
        views = [f"image.{view}" for view in self._plan.image_views]
        return [crop for item in self._decoded for view in views for crop in item.pixels[view]]


def _least_cosine(vectors: np.ndarray, others: np.ndarray) -> float:
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    return float(((vectors * others).sum(axis=1) / norms).min())


def _on_gpu(config: ExtractConfig) -> bool:
    from torch import cuda

    return config.device != "cpu" and cuda.is_available()


def _gpu_memory(config: ExtractConfig) -> int | None:
    from torch import cuda

    return cuda.max_memory_reserved() if _on_gpu(config) else None
