import asyncio
import time
from typing import Any

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem

from mmrec.features.config import ReadingConfig
from mmrec.features.errors import ImageFailure, InputError
from mmrec.features.sources import retries, stores
from mmrec.features.sources.reading import ImageReader

MAX_BYTES = 100


class Bucket(AsyncFileSystem):
    """A store that answers over the network, as those of s3fs and gcsfs do."""

    protocol = "bucket"
    cachable = False
    calls: tuple[str, ...] = ()
    flaky = 0

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        Bucket.calls += (path,)
        if path.endswith("hangs"):
            await asyncio.sleep(60)
        if path.endswith("flaky") and Bucket.calls.count(path) <= 2:
            raise OSError("could not connect") from ConnectionResetError()
        if "denied" in path:
            raise PermissionError(f"403 for {path}")
        return b"x" * 150 if path.endswith("large") else b"a picture"[start:end]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> type[Bucket]:
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(stores, "url_to_fs", lambda uri: (Bucket(), uri.partition("://")[2]))
    Bucket.calls = ()
    return Bucket


def read(reference: str, root: str | None = None, **keys: Any) -> bytes:
    return ImageReader(root, ReadingConfig(**keys), MAX_BYTES).read(reference)


def failure(reference: str, root: str | None = None, **keys: Any) -> ImageFailure:
    with pytest.raises(ImageFailure) as caught:
        read(reference, root, **keys)
    return caught.value


def test_objects_are_read_by_uri_and_below_a_root() -> None:
    with fsspec.open("memory://shop/a.jpg", "wb") as file:
        file.write(b"remote")  # pyright: ignore
    with fsspec.open("memory://shop/large", "wb") as file:
        file.write(b"x" * (MAX_BYTES + 1))  # pyright: ignore
    assert read("memory://shop/a.jpg") == b"remote"
    assert read("x/../a.jpg", "memory://shop/") == b"remote"
    assert failure("memory://shop/b.jpg").reason == "missing"
    assert failure("memory://shop/large").reason == "too_large"
    for outside in ("../shop/a.jpg", "/shop/a.jpg", "file:///etc/passwd"):
        assert failure(outside, "memory://shop").reason == "outside_root"
    assert failure("memory://shop/a.jpg", schemes=["s3"]).reason == "refused"
    assert failure("memory://shop/a.jpg", hosts=["other"]).reason == "refused"
    assert read("memory://shop/a.jpg", hosts=["shop"]) == b"remote"


def test_a_store_that_hangs_runs_out_of_time_and_one_that_fails_is_asked_again(bucket: type[Bucket]) -> None:
    assert read("s3://shop/flaky") == b"a picture"
    assert bucket.calls == ("shop/flaky",) * 3
    started = time.monotonic()
    assert failure("s3://shop/hangs", timeout=0.2, retries=1).reason == "unreachable"
    assert bucket.calls.count("shop/hangs") == 2
    assert time.monotonic() - started < 2
    assert failure("s3://shop/large").reason == "too_large"


def test_a_store_that_refuses_is_not_asked_again_and_its_words_hold_no_secret(bucket: type[Bucket]) -> None:
    denied = failure("s3://shop/denied?token=S3cret")
    assert (denied.reason, len(bucket.calls)) == ("unreadable", 1)
    assert "403" in denied.message and "S3cret" not in denied.message


def test_a_store_whose_package_is_not_installed_stops_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("mmrec.features.sources.stores.url_to_fs", refuse)
    with pytest.raises(InputError, match=r"^s3://shop/a.jpg: Install s3fs"):
        read("s3://shop/a.jpg")
