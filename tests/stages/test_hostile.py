"""A folder of hostile files among sound pictures: each sound one is extracted, each other one has its reason.

The command runs in a process of its own, so that what reaches the terminal, and what outlives it, shows.
"""

import ctypes
import io
import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.features.store import FeatureStore

WIDTH, HEIGHT = 96, 72
CONFIG = """
[catalog]
items = "items.jsonl"
image = "image"
[extract]
image_views = ["full", "quadrants"]
shard_rows = 64
decode_seconds = 2
decode_memory_mb = 256
max_image_pixels = 40000000
max_image_bytes = 4000000
max_failures = 0.5
[run]
output = "out"
"""
# Contents of "DRILL ..." take the decoder down, for which no format that Pillow reads can be relied on.
DRILLED = """
from functools import partial
from mmrec.cli import app
from mmrec.features.decoding.pool import DecodePool
from mmrec.stages.extraction import feed
feed.DecodePool = partial(DecodePool, drill=True)
app()
"""
FORMATS: dict[str, dict[str, Any]] = {"jpg": {}, "png": {}, "webp": {}, "gif": {}, "tif": {}, "bmp": {}}
NAMES = {"jpg": "JPEG", "tif": "TIFF"}


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, NAMES.get(kind, kind), **options)
    return stream.getvalue()


def replaced(content: bytes, at: int, patch: bytes) -> bytes:
    assert 0 < at < len(content)
    return content[:at] + patch + content[at + len(patch) :]


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunk(png: bytes, name: bytes, body: bytes) -> bytes:
    return png[:33] + png_chunk(name, body) + png[33:]  # behind IHDR


def sound() -> Iterator[tuple[str, bytes]]:
    """Pictures that must be read, whatever is odd about them."""
    for number, kind in enumerate(FORMATS):
        yield f"plain.{kind}", encode(noise(number), kind)
        yield (
            f"a {kind} by another name.{'png' if kind == 'jpg' else 'jpg'}",
            encode(noise(10 + number), kind),
        )
    image = noise(20)
    modes = {"1": "PNG", "L": "PNG", "LA": "PNG", "P": "GIF", "PA": "TIFF", "CMYK": "JPEG", "YCbCr": "JPEG"}
    for mode, kind in modes.items():
        yield f"mode-{mode}", encode(image.convert(mode), kind)
    yield "mode-LAB", encode(image.convert("LAB"), "TIFF")
    grey = np.asarray(image)[..., 0]
    yield "mode-I;16", encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    yield "mode-I", encode(Image.fromarray(grey.astype(np.int32) * 257), "TIFF")
    yield "transparent-P", encode(image.quantize(50), "PNG", transparency=3)
    clear = image.copy()
    clear.putalpha(0)
    yield "alpha-0", encode(clear, "PNG")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"orientation-{orientation}.jpg", encode(image, "jpg", exif=exif)
    yield "broken-exif.jpg", encode(image, "jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    yield "broken-icc.jpg", encode(image, "jpg", icc_profile=b"no profile")
    yield "broken-xmp.jpg", encode(image, "jpg", xmp=b"<x:xmpmeta><broken")
    yield "behind-the-end.png", encode(image, "png") + b"garbage" * 100
    frames = [noise(seed) for seed in range(3)]
    for kind in ("gif", "webp", "png"):
        yield f"frames.{kind}", encode(image, kind, save_all=True, append_images=frames, loop=0)
    still = encode(image, "gif")
    at = still.index(b"\x2c\0\0\0\0")
    yield "endless.gif", still[:at] + still[at:-1] * 400 + b";"
    for name in ("line\nbreak.png", "tab\t and 'quotes\".png", "日本 é e\u0301 🧢.png", "n" * 251 + ".png"):
        yield name, encode(image, "png")


def hostile() -> Iterator[tuple[str, bytes, str]]:
    """Contents of files that have no pixels, and the reason."""
    image = noise(30)
    whole = {kind: encode(image, kind) for kind in FORMATS}
    for kind, content in whole.items():
        for share in range(5, 100, 5):
            yield f"cut at {share}%.{kind}", content[: len(content) * share // 100], "truncated"
    rng = np.random.default_rng(0)
    for number in range(42):
        yield f"random-{number}.jpg", b"?" + rng.bytes(200 * number + 1), "not_an_image"
    yield "empty.jpg", b"", "not_an_image"
    yield "zeros.png", bytes(5000), "not_an_image"
    yield "page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image"
    yield "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "not_an_image"
    yield "runs-a-program.eps", encode(image, "eps"), "not_an_image"
    yield "paper.pdf", encode(image, "pdf"), "not_an_image"
    for kind in ("tga", "pcx", "icns", "dds", "sgi"):
        yield f"unread.{kind}", encode(image, kind), "not_an_image"
    yield "photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "unreadable"
    yield "floats.tif", encode(image.convert("F"), "tif"), "unreadable"
    yield "head-only.png", whole["png"][:8] + b"\xff" * 300, "corrupt"
    yield "wrong-checksum.png", replaced(whole["png"], 20, b"\1"), "corrupt"
    yield "no-tables.jpg", whole["jpg"].replace(b"\xff\xdb", b"\xff\xed"), "corrupt"
    yield "large.png", encode(image, "png") + bytes(4_000_000), "too_large"
    huge = struct.pack("<HH", 60_000, 60_000)
    yield "bomb.gif", replaced(whole["gif"], 6, huge), "bomb"
    yield "bomb-in-frame.gif", replaced(whole["gif"], whole["gif"].index(b"\x2c\0\0\0\0") + 5, huge), "bomb"
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    yield "bomb.png", whole["png"][:8] + head + whole["png"][33:], "bomb"
    yield "packed-bomb.png", encode(Image.new("1", (40_001, 1_000)), "png"), "bomb"
    yield "sliver.png", encode(Image.new("1", (1, 30_000)), "png"), "bomb"
    lossy = whole["webp"].index(b"VP8 ")
    yield "bomb.webp", replaced(whole["webp"], lossy + 14, struct.pack("<HH", 16_383, 16_383)), "bomb"
    for tag, size in ((256, WIDTH), (257, HEIGHT)):
        at = whole["tif"].index(struct.pack("<HHLL", tag, 4, 1, size))
        whole["tif"] = replaced(whole["tif"], at + 8, struct.pack("<L", 60_000))
    yield "bomb.tif", whole["tif"], "bomb"
    yield "bomb.bmp", replaced(whole["bmp"], 18, struct.pack("<ii", 60_000, 60_000)), "bomb"
    at = whole["jpg"].index(b"\xff\xc0") + 5
    yield "bomb.jpg", replaced(whole["jpg"], at, struct.pack(">HH", 65_500, 65_500)), "bomb"
    talkative = encode(image, "png")
    for _ in range(3):
        talkative = with_chunk(talkative, b"zTXt", b"k\0\0" + zlib.compress(bytes(30_000_000)))
    yield "bomb-of-text.png", talkative, "bomb"
    yield (
        "within-the-pixels-but-not-the-memory.png",
        encode(Image.new("LA", (6_000, 6_000)), "png"),
        "out_of_memory",
    )
    yield "crash.jpg", b"DRILL crash", "crashed"
    yield "exit.jpg", b"DRILL exit", "crashed"
    yield "hang.jpg", b"DRILL hang", "timeout"
    yield "leak.jpg", b"DRILL memory", "out_of_memory"


def no_files(folder: Path) -> Iterator[tuple[str, str]]:
    """What is no readable file at all, made in `folder`, and the reason."""
    yield "missing.jpg", "missing"
    yield "plain.png/inside.jpg", "missing"
    yield "n" * 256, "unreadable"
    yield "nul\0.jpg", "unreadable"
    yield "../items.jsonl", "outside_root"
    yield "ftp://example.com/a.jpg", "refused"
    os.mkfifo(folder / "pipe.jpg")
    yield "pipe.jpg", "unreadable"
    (folder / "folder.jpg").mkdir()
    yield "folder.jpg", "unreadable"
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(folder)  # a socket's path has little room
        listener.bind("socket.jpg")
    yield "socket.jpg", "unreadable"
    (folder / "device.jpg").symlink_to("/dev/zero")
    yield "device.jpg", "outside_root"
    (folder / "dangling.jpg").symlink_to(folder / "nowhere")
    yield "dangling.jpg", "missing"
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    yield "loop.jpg", "unreadable"
    (folder / "forbidden.png").write_bytes(encode(noise(0), "png"))
    (folder / "forbidden.png").chmod(0)
    yield "forbidden.png", "unreadable"


def may_read_no_more_than_others() -> None:
    """In the child, before it runs: permissions of files hold for root's process too."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH; refused to those who lack them anyway
        ctypes.CDLL(None).prctl(24, capability)  # PR_CAPBSET_DROP


def write_project(folder: Path, images: list[str]) -> None:
    folder.joinpath("run.toml").write_text(CONFIG.replace('"image"', '"image"\nimage_root = "images"', 1))
    rows = [json.dumps({"item_id": f"{number} {name}", "image": name}) for number, name in enumerate(images)]
    folder.joinpath("items.jsonl").write_text("\n".join(rows))


@pytest.mark.skipif(sys.platform != "linux", reason="drops capabilities and looks into /proc and /dev/shm")
def test_of_a_folder_of_hostile_files_all_sound_pictures_are_extracted(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    good = dict(sound())
    unsound = [*hostile()]
    for name, content in [*good.items(), *((name, content) for name, content, _ in unsound)]:
        (folder / name).write_bytes(content)
    bad = {name: reason for name, _, reason in unsound} | dict(no_files(folder))
    assert len(bad) >= 200 and not good.keys() & bad.keys()
    names = np.random.default_rng(0).permutation([*good, *bad]).tolist()
    write_project(tmp_path, names)
    expected = {f"{number} {name}": bad[name] for number, name in enumerate(names) if name in bad}

    before = {*Path("/dev/shm").iterdir()}
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", DRILLED, "extract", "-c", str(tmp_path / "run.toml")],
        env={**os.environ, "TMPDIR": str(temporary), "HOSTILE_TEST": str(tmp_path)},
        preexec_fn=may_read_no_more_than_others,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr and "libpng" not in done.stderr
    assert f"{len(bad)} of {len(names)} items failed" in done.stderr
    assert not [path for path in temporary.rglob("*") if not path.is_dir()]  # torch leaves a folder there
    assert {*Path("/dev/shm").iterdir()} <= before
    assert not list(processes_with(f"HOSTILE_TEST={tmp_path}"))

    store = FeatureStore(tmp_path / "out" / "features")
    store.verify()
    ledger = store.failures().select("item_id", "reason").unique()
    assert dict(ledger.iter_rows()) == expected and len(ledger) == len(expected)
    assert not [path for path in store.folder.rglob("*") if path.name.endswith(".tmp")]

    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "images").symlink_to(folder)
    write_project(alone, list(good))
    assert CliRunner().invoke(app, ["extract", "-c", str(alone / "run.toml")]).exit_code == 0
    undisturbed = FeatureStore(alone / "out" / "features")
    ids = pl.Series([f"{names.index(name)} {name}" for name in good])
    for view in ("image.full", "image.quadrants"):
        vectors, present = undisturbed.read(view)
        found, has = store.read(view, ids)
        assert present.all() and has.all()
        np.testing.assert_allclose(found, vectors, atol=1e-3)
        assert store.read(view)[1].sum() == len(good)

    lenient = ["extract", "-c", str(tmp_path / "run.toml"), "--set", "extract.max_failures=0.9"]
    assert CliRunner().invoke(app, lenient).exit_code == 0


def processes_with(variable: str) -> Iterator[str]:
    """The ids of processes that run with this variable in their environment."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (process / "environ").read_bytes().split(b"\0"):
                yield process.name
        except OSError:  # it has ended
            continue
