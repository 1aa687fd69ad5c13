"""Mutated images through the decoding pool: each must give pixels or a failure with a reason; JSON out.

python bench/fuzz_decode.py --inputs 100000 --seed 0
python bench/fuzz_decode.py --inputs 20000 --images folder/of/real/images --keep /tmp/found

Seeds are images of every format and mode that is read, written by Pillow, and those of `--images`. A mutant
has bits flipped, bytes set to extremes, numbers of its header changed, parts cut off, doubled, dropped or
replaced by another seed's, or chunks shuffled. Exits with 1 when anything but pixels or a failure with a
reason comes back, and when the fast way with JPEGs and Pillow's disagree. Mutants that cost a worker its
life are written to `--keep`.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmrec.features.decoding.boxes import WHOLE
from mmrec.features.decoding.item import Crop, Decoded, DecodePlan
from mmrec.features.decoding.pool import DecodePool
from mmrec.features.decoding.transform import ImageTransform
from mmrec.features.errors import REASONS

COLUMNS = {
    "clip": [Crop(WHOLE, ImageTransform((64, 64))), Crop("center", ImageTransform((64, 64)))],
    "squash": [Crop((0.5, 0.0, 1.0, 0.5), ImageTransform((32, 48), "squash", "bilinear"))],
}
PILLOW = {"all": [Crop(WHOLE, ImageTransform((8, 8), interpolation="lanczos"))]}  # has no fast way
FATAL = ("crashed", "timeout", "out_of_memory")  # reasons that cost a worker
BATCH = 512


class Mutant(NamedTuple):
    number: int
    kind: str
    content: bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--decode-seconds", type=float, default=10.0)
    parser.add_argument("--decode-memory-mb", type=int, default=1024)
    parser.add_argument("--max-pixels", type=int, default=20_000_000)
    parser.add_argument("--images", type=Path, help="a folder of real images, as further seeds")
    parser.add_argument("--keep", type=Path, help="a folder for the mutants that cost a worker")
    arguments = parser.parse_args()
    found = fuzz(arguments)
    print(json.dumps(found, indent=2))
    sys.exit(bool(found["violations"]))


def fuzz(arguments: argparse.Namespace) -> dict[str, Any]:
    seeds = written_seeds()
    if arguments.images:
        files = sorted(path for path in arguments.images.rglob("*") if path.is_file())[:500]
        seeds += [(f"real {path.suffix}", path.read_bytes()) for path in files]
    limits = {
        "max_pixels": arguments.max_pixels,
        "seconds": arguments.decode_seconds,
        "memory_mb": arguments.decode_memory_mb,
    }
    verdicts: dict[str, Counter[str]] = {}
    violations: list[str] = []
    fatal: list[str] = []
    slowest: list[tuple[float, int, str]] = []
    started = time.perf_counter()
    source = mutants(seeds, arguments.seed, arguments.inputs)
    with (
        DecodePool(DecodePlan(COLUMNS, **limits), arguments.workers) as pool,
        DecodePool(DecodePlan(PILLOW, **limits), arguments.workers) as pillow,
    ):
        while batch := list(islice(source, BATCH)):
            jpegs = [mutant for mutant in batch if mutant.content.startswith(b"\xff\xd8\xff")]
            other = {m.number: judge(i, PILLOW) for m, i in zip(jpegs, decoded(pillow, jpegs), strict=True)}
            for mutant, item in zip(batch, decoded(pool, batch), strict=True):
                verdict = judge(item, COLUMNS)
                verdicts.setdefault(mutant.kind, Counter())[verdict] += 1
                seconds = item.decode_seconds + item.transform_seconds
                slowest = sorted([*slowest, (seconds, mutant.number, mutant.kind)])[-5:]
                if verdict not in ("pixels", *REASONS):
                    violations.append(f"{mutant.number} ({mutant.kind}): {verdict}")
                if other.get(mutant.number, verdict) != verdict:
                    violations.append(
                        f"{mutant.number} ({mutant.kind}): {verdict}, by Pillow {other[mutant.number]}"
                    )
                    keep(arguments.keep, mutant, "disagree")
                if verdict in FATAL:
                    fatal.append(f"{mutant.number} ({mutant.kind}): {item.failures[0]}")
                    keep(arguments.keep, mutant, verdict)
    seconds = time.perf_counter() - started
    return {
        "settings": {key: str(value) for key, value in vars(arguments).items()},
        "seeds": len(seeds),
        "inputs_per_second": round(arguments.inputs / seconds, 1),
        "verdicts": dict(sum(verdicts.values(), Counter()).most_common()),
        "by_kind": {kind: dict(counts.most_common()) for kind, counts in sorted(verdicts.items())},
        "slowest": [f"{seconds:.3f} s: {number} ({kind})" for seconds, number, kind in slowest[::-1]],
        "fatal": fatal,
        "violations": violations,
    }


def decoded(pool: DecodePool, batch: list[Mutant]) -> Iterator[Decoded]:
    return pool.map([mutant.content] for mutant in batch)


def judge(item: Decoded, columns: dict[str, list[Crop]]) -> str:
    """ "pixels", the reason of the failure, or what is wrong with the answer."""
    shapes = {column: [(3, *crop.transform.size) for crop in crops] for column, crops in columns.items()}
    found = {column: [crop.shape for crop in crops] for column, crops in item.pixels.items()}
    if not item.failures:
        return "pixels" if found == shapes else f"pixels of shapes {found}"
    if len(item.failures) > 1 or any(found.values()):
        return f"{len(item.failures)} failures beside pixels of shapes {found}"
    return item.failures[0].reason if item.failures[0].message else "a failure without a message"


def keep(folder: Path | None, mutant: Mutant, why: str) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{mutant.number}-{why}-{mutant.kind.replace(' ', '-')}").write_bytes(mutant.content)


def written_seeds() -> list[tuple[str, bytes]]:
    """Images of every format and mode, by Pillow."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :83]
    colours = np.stack([x * 3, y * 4, (x * y) % 256], axis=-1).astype(np.uint8)
    colours[20:40, 20:50] = rng.integers(0, 256, (20, 30, 3))
    rgb = Image.fromarray(colours)
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray((x * 3).astype(np.uint8)))
    grey, ink, bits = rgb.convert("L"), rgb.convert("CMYK"), rgb.convert("1")
    palette = rgb.quantize(40)
    deep = Image.fromarray(colours[..., 0].astype(np.uint16) * 257)
    real = Image.fromarray(colours[..., 0].astype(np.float32))
    frames = [rgb.rotate(angle) for angle in (30, 60, 90)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description " * 20
    many: dict[str, Any] = {"save_all": True, "append_images": frames}
    kinds: list[tuple[str, list[tuple[Image.Image, dict[str, Any]]]]] = [
        (
            "JPEG",
            [
                *((rgb, {"quality": quality}) for quality in (5, 75, 100)),
                *((image, {}) for image in (grey, ink)),
                (rgb, {"progressive": True}),
                (rgb, {"subsampling": 0, "restart_marker_blocks": 2, "optimize": True}),
                (rgb, {"exif": exif, "icc_profile": rng.bytes(3000), "comment": b"x" * 300}),
            ],
        ),
        ("MPO", [(rgb, many)]),
        (
            "PNG",
            [
                *((image, {}) for image in (rgb, rgba, grey, bits, palette, deep, rgba.convert("LA"))),
                (palette, {"transparency": 3}),
                (rgb, {"exif": exif, "icc_profile": rng.bytes(3000), **many}),
            ],
        ),
        (
            "WEBP",
            [
                *((image, {"lossless": lossless}) for image in (rgb, rgba) for lossless in (False, True)),
                (rgb, {"exif": exif, **many}),
            ],
        ),
        ("GIF", [(palette, {}), (palette, {"transparency": 3, **many}), (grey, {"interlace": 0})]),
        (
            "TIFF",
            [
                *((image, {}) for image in (rgb, rgba, grey, ink, bits, palette, deep, real)),
                *((rgb, {"compression": how}) for how in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")),
                (rgb.convert("LAB"), {}),
                (bits, {"compression": "group4"}),
                (rgb, many),
            ],
        ),
        ("BMP", [(image, {}) for image in (rgb, rgba, grey, bits, palette)]),
        ("AVIF", [(rgb, {"quality": 60, "speed": 9}), (rgba, {"speed": 9}), (rgb, {"speed": 9, **many})]),
        ("JPEG2000", [(image, {}) for image in (rgb, rgba, grey, deep)]),
        ("PPM", [(image, {}) for image in (rgb, grey, bits, deep)]),
        ("ICO", [(rgba, {"sizes": [(16, 16), (48, 48)]}), (rgb, {"bitmap_format": "bmp"})]),
        ("DIB", [(rgb, {})]),
    ]
    seeds = []
    for kind, images in kinds:
        for image, options in images:
            file = io.BytesIO()
            if "append_images" in options:
                options = {**options, "append_images": [frame.copy() for frame in frames]}
            image.copy().save(file, kind, **options)  # a copy, since saving leaves settings on an image
            seeds.append((kind, file.getvalue()))
    return seeds


def mutants(seeds: list[tuple[str, bytes]], seed: int, count: int) -> Iterator[Mutant]:
    """So many, each of one to four mutations of a seed; every mutant depends on its number alone."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        kind, content = seeds[rng.integers(len(seeds))]
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 5)):
            mutate = MUTATIONS[rng.integers(len(MUTATIONS))]
            damaged = mutate(damaged, rng, seeds[rng.integers(len(seeds))][1]) or bytearray(b"\0")
        if rng.integers(2):
            damaged = mend_checksums(damaged)
        yield Mutant(number, kind, bytes(damaged))


def flip_bits(content: bytearray, rng: np.random.Generator, _: bytes) -> bytearray:
    for at in rng.integers(len(content), size=rng.integers(1, 20)):
        content[at] ^= 1 << rng.integers(8)
    return content


def set_extremes(content: bytearray, rng: np.random.Generator, _: bytes) -> bytearray:
    for at in rng.integers(len(content), size=rng.integers(1, 8)):
        content[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF])
    return content


def change_header(content: bytearray, rng: np.random.Generator, _: bytes) -> bytearray:
    """Numbers among the first bytes become small, huge, negative or random."""
    width = int(rng.choice([1, 2, 4, 8]))
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(min(len(content), 200)))
        values = [0, 1, 0xFF, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, int(rng.integers(2**31))]
        value = int(rng.choice(values)) % 2 ** (8 * width) if width < 8 else values[rng.integers(6)] % 2**64
        content[at : at + width] = value.to_bytes(width, rng.choice(["little", "big"]))
    return content


def cut(content: bytearray, rng: np.random.Generator, _: bytes) -> bytearray:
    return content[: rng.integers(len(content)) + 1]


def drop(content: bytearray, rng: np.random.Generator, _: bytes) -> bytearray:
    start, stop = span(content, rng)
    return content[:start] + content[stop:]


def double(content: bytearray, rng: np.random.Generator, _: bytes) -> bytearray:
    start, stop = span(content, rng)
    return content[:stop] + content[start:stop] * int(rng.integers(1, 6)) + content[stop:]


def splice(content: bytearray, rng: np.random.Generator, other: bytes) -> bytearray:
    """A part of another image in place of one of its own."""
    start, stop = span(content, rng)
    first, last = span(other, rng)
    return content[:start] + other[first:last] + content[stop:]


def fill(content: bytearray, rng: np.random.Generator, _: bytes) -> bytearray:
    start, stop = span(content, rng)
    content[start:stop] = rng.bytes(stop - start) if rng.integers(2) else bytes(stop - start)
    return content


def shuffle_chunks(content: bytearray, rng: np.random.Generator, _: bytes) -> bytearray:
    """Two of the parts between markers that many formats have change places, or one is doubled."""
    marks = {
        at
        for mark in (b"\xff", b"ID", b"IHDR", b"fc", b"VP8", b"ANMF", b"\x00\x3b", b"mdat", b"meta")
        for at in find_all(content, mark)
    }
    if len(marks) < 3:
        return content
    first, second, third = sorted(rng.choice(sorted(marks), 3, replace=False).tolist())
    if rng.integers(2):
        return content[:first] + content[second:third] + content[first:second] + content[third:]
    return content[:third] + content[first:second] + content[third:]


def mend_checksums(content: bytearray) -> bytearray:
    """Right checksums for the chunks of a PNG, so that what is wrong in them gets further."""
    at = 8
    while content.startswith(b"\x89PNG") and at + 12 <= len(content):
        stop = at + 8 + struct.unpack_from(">I", content, at)[0]
        if stop + 4 > len(content):
            break
        struct.pack_into(">I", content, stop, zlib.crc32(content[at + 4 : stop]))
        at = stop + 4
    return content


def span(content: bytes | bytearray, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(content)))
    return start, min(len(content), start + 1 + int(rng.exponential(40)))


def find_all(content: bytes | bytearray, mark: bytes) -> list[int]:
    found, at = [], content.find(mark)
    while at >= 0 and len(found) < 200:
        found.append(at)
        at = content.find(mark, at + 1)
    return found


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator, bytes], bytearray], ...] = (
    *(flip_bits, set_extremes, change_header, cut, drop, double, splice, fill, shuffle_chunks),
)


if __name__ == "__main__":
    main()
