import os
from pathlib import Path

import pytest

from mmrec.features.config import ReadingConfig
from mmrec.features.errors import ImageFailure
from mmrec.features.sources.reading import ImageReader

MAX_BYTES = 10_000


def read(reference: str | bytes, root: str | None) -> bytes:
    return ImageReader(root, ReadingConfig(), MAX_BYTES).read(reference)


def reason(reference: str | bytes, root: str | None) -> str:
    with pytest.raises(ImageFailure) as caught:
        read(reference, root)
    return caught.value.reason


def test_images_are_read_below_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.jpg").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "good link").symlink_to(root / "sub" / "a.jpg")
    here = str(root)
    for inside in (
        "sub/a.jpg",
        "sub/../sub/a.jpg",
        str(root / "sub" / "a.jpg"),
        "good link",
        f"file://{root}/sub/a.jpg",
    ):
        assert read(inside, here) == b"inside"
    for outside in (
        "../secret",
        "sub/../../secret",
        str(tmp_path / "secret"),
        "link",
        f"file://{tmp_path}/secret",
    ):
        assert reason(outside, here) == "outside_root"
    assert reason("sub/a.jpg", None) == "outside_root"


def test_unreadable_references_have_their_reasons(tmp_path: Path) -> None:
    root = str(tmp_path)
    (tmp_path / "big").write_bytes(b"x" * (MAX_BYTES + 1))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    assert reason("none.jpg", root) == "missing"
    assert reason("big/none.jpg", root) == "missing"
    assert reason("big", root) == "too_large"
    assert reason(b"x" * (MAX_BYTES + 1), root) == "too_large"
    for unreadable in (".", "pipe", "loop", "a\0b", "n" * 300):
        assert reason(unreadable, root) == "unreadable"
    for refused in ("ssh://host/a.jpg", "zip://a::file:///etc/passwd", "memory://a::file:///etc/passwd"):
        assert reason(refused, root) == "refused"
