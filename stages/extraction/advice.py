"""What to change about an extraction that would take too long, or would not go well."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...features.config import ExtractConfig
from .estimate import Advice, Estimate

_WORTHWHILE = 1.15  # times as fast, to be worth a change
_LONGEST_SHARD = 600.0  # seconds of work that a kill should cost at most
_MUCH_TEXT = 0.25  # of the time of encoding


def advise(found: Estimate, config: ExtractConfig, readers: int) -> list[Advice]:
    """The most weighty first: what would stop the job, then what would make it faster."""
    return [*_dangers(found, config), *_faster(found, config, readers)]


def _dangers(found: Estimate, config: ExtractConfig) -> Iterator[Advice]:
    if found.disk > found.disk_free:
        yield Advice(
            "free disk space, or another run.features",
            f"the store takes {size(found.disk)}, and {size(found.disk_free)} are free",
        )
    if found.memory is not None and found.memory_free is not None and found.memory > found.memory_free:
        yield Advice(
            "smaller extract.shard_rows, extract.batch_size or extract.workers",
            f"the job takes {size(found.memory)} of memory, and {size(found.memory_free)} are free",
        )
    if found.failed > config.max_failures * found.sampled:
        reasons = ", ".join(f"{reason} {count}" for reason, count in found.reasons.items())
        yield Advice(
            "the images that fail, or extract.max_failures",
            f"{found.failed} of {found.sampled} sampled items failed ({reasons}): the job would exit with 4",
        )
    if found.batch_size < config.batch_size and found.on_gpu:
        yield Advice(
            f"extract.batch_size = {found.batch_size}",
            f"{config.batch_size} at once do not fit into the GPU's memory",
        )
    shard = config.shard_rows * found.item_seconds
    if shard > _LONGEST_SHARD and found.shards > 1:
        rows = 2 ** int(math.log2(max(_LONGEST_SHARD / found.item_seconds, 1)))
        yield Advice(
            f"extract.shard_rows = {rows}",
            f"a shard takes {shard / 60:.0f} minutes: what a kill costs, and what a signal to stop waits for",
        )


def _faster(found: Estimate, config: ExtractConfig, readers: int) -> Iterator[Advice]:
    if found.limit == "read":
        yield Advice(
            f"catalog.readers = {2 * readers}",
            f"{readers} readers give {1 / found.read:,.0f} items/s, {_others(found)}",
        )
    elif found.limit in ("decode", "transform"):
        yield from _faster_decoding(found)
    else:
        yield from _faster_encoding(found, config)


def _faster_decoding(found: Estimate) -> Iterator[Advice]:
    decoding = found.decode + found.transform
    rate = f"a core decodes {1 / decoding:,.0f} items/s ({found.limit} takes most of it), {_others(found)}"
    wanted = math.ceil(decoding / max(found.encode, found.read))
    if found.workers < found.cores:
        yield Advice(f"extract.workers = {min(wanted, found.cores)}", rate)
    else:
        yield Advice(f"a machine of {wanted} cores, or images stored smaller", rate)


def _faster_encoding(found: Estimate, config: ExtractConfig) -> Iterator[Advice]:
    for other in sorted(found.alternatives, key=lambda other: other.images):
        if found.images > _WORTHWHILE * other.images:
            yield Advice(
                other.change,
                f"images of {1 / other.images:,.1f} items/s in place of {1 / found.images:,.1f}, and vectors "
                f"with a cosine of at least {other.cosine:.5f} to those of this config",
            )
    load = found.text_load
    if load is None or found.texts < _MUCH_TEXT * found.encode:
        return
    share = f"texts take {found.texts / found.encode:.0%} of encoding"
    if load.long > 0.05 * load.distinct and config.long_text != "truncate":
        yield Advice(
            'extract.long_text = "truncate", or shorter text views',
            f"{share}; {load.long} of {load.distinct} distinct texts of a shard are longer than the context "
            f"and make {len(load.windows)} windows",
        )
    elif load.distinct > 0.5 * load.texts:
        yield Advice(
            "fewer text views, or views of one field each",
            f"{share}; {load.distinct} of {load.texts} texts of a shard are distinct: identical ones, as of "
            "brands and categories, are encoded once",
        )


def _others(found: Estimate) -> str:
    return (
        f"the encoder takes {1 / found.encode:,.0f} items/s"
        if found.encode
        else "the encoder has nothing to do"
    )


def size(n: float) -> str:
    """`512 B`, `3.4 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:,.1f} TB"
