"""Decoding in processes: what comes out, and what one picture can do to the others."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrec.features.decoding import nursery as nurseries
from mmrec.features.decoding.boxes import WHOLE, image_view_cuts
from mmrec.features.decoding.item import Crop, DecodePlan
from mmrec.features.decoding.nursery import NurseryError
from mmrec.features.decoding.pool import DecodePool
from mmrec.features.decoding.transform import ImageTransform
from mmrec.features.errors import ImageFailure

SMALL, TINY = ImageTransform((8, 12)), ImageTransform((2, 2), "squash")


def plan(columns=None, **settings) -> DecodePlan:
    return DecodePlan(columns or {"full": [Crop(WHOLE, SMALL)]}, **{"max_pixels": 10_000, **settings})


def picture(seed: int, width: int = 30, height: int = 20) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


def png(seed: int, **size: int) -> bytes:
    file = io.BytesIO()
    picture(seed, **size).save(file, "PNG")
    return file.getvalue()


def test_every_column_has_its_crops_of_every_picture_from_one_decode() -> None:
    columns = {
        "quadrants": [Crop(cut, SMALL) for cut in image_view_cuts("quadrants", {})],
        "both": [Crop("center", TINY), Crop((0.0, 0.0, 0.5, 0.5), SMALL)],
    }
    with DecodePool(plan(columns), 2) as pool:
        item = pool.submit([png(0), png(1)]).result()
    for number in (0, 1):
        corner = SMALL(picture(number).crop((0, 0, 15, 10)))
        assert (item.pixels["quadrants"][4 * number] == corner).all()
        assert (item.pixels["both"][2 * number + 1] == corner).all()
        centre = TINY(picture(number).crop((8, 3, 23, 18)))
        assert (item.pixels["both"][2 * number] == centre).all()
    assert len(item.pixels["quadrants"]) == 8 and len(item.pixels["both"]) == 4 and not item.failures
    assert item.decode_seconds > 0 and item.transform_seconds > 0


def test_items_come_back_in_order_and_not_many_are_read_ahead() -> None:
    taken = []

    def items():
        for number in range(60):
            taken.append(number)
            yield [png(number)]

    with DecodePool(plan(), 2) as pool:
        for number, item in enumerate(pool.map(items(), ahead=5)):
            assert (item.pixels["full"][0] == SMALL(picture(number))).all()
            assert len(taken) <= number + 6
    assert len(taken) == 60


def test_failures_stand_in_the_order_of_the_pictures_beside_the_pixels_of_the_others() -> None:
    missing = ImageFailure("missing", "a.png: no such file")
    with DecodePool(plan(), 1) as pool:
        item = pool.submit([b"text", png(1), missing, b"", png(2, width=200)]).result()
        alone = pool.submit([missing]).result()
    assert [failure.reason for failure in item.failures] == ["not_an_image", "missing", "not_an_image"]
    assert len(item.pixels["full"]) == 2 and alone.failures == [missing] and alone.pixels == {"full": []}


def test_where_one_picture_is_enough_the_next_is_tried_only_after_a_failure() -> None:
    missing = ImageFailure("missing", "a.png: no such file")
    with DecodePool(plan(first_only=True), 1) as pool:
        item = pool.submit([missing, b"text", png(1), b"more text", png(2)]).result()
    assert [failure.reason for failure in item.failures] == ["missing", "not_an_image"]
    assert len(item.pixels["full"]) == 1 and (item.pixels["full"][0] == SMALL(picture(1))).all()


DRILLS = {
    b"DRILL crash": ("crashed", "SIGSEGV"),
    b"DRILL exit": ("crashed", "exit status 3"),
    b"DRILL hang": ("timeout", "not decoded within 1 s (extract.decode_seconds)"),
    b"DRILL memory": ("out_of_memory", "more than 256 MiB (extract.decode_memory_mb)"),
}


def test_what_takes_its_decoder_down_fails_alone() -> None:
    with DecodePool(plan(seconds=1, memory_mb=256), 2, drill=True) as pool:
        items = [[png(number)] for number in range(40)]
        for number, content in enumerate(DRILLS):
            items[7 * number + 1].insert(number % 2, content)
        found = list(pool.map(items))
    for number, item in enumerate(found):
        assert (item.pixels["full"][0] == SMALL(picture(number))).all()
    failures = {number: item.failures for number, item in enumerate(found) if item.failures}
    assert list(failures) == [1, 8, 15, 22]
    for (failure,), (reason, said) in zip(failures.values(), DRILLS.values(), strict=True):
        assert failure.reason == reason and said in failure.message


def test_a_worker_that_somebody_kills_loses_nothing() -> None:
    with DecodePool(plan(), 2) as pool:
        found = []
        for number, item in enumerate(pool.map([png(number)] for number in range(300))):
            found.append(item.pixels["full"][0])
            if number in (3, 100, 200):
                for worker in pool.dispatcher._workers:
                    os.kill(worker.pid, signal.SIGKILL)
    assert all((pixels == SMALL(picture(number))).all() for number, pixels in enumerate(found))
    assert len(found) == 300


def test_a_nursery_that_somebody_kills_is_replaced() -> None:
    with DecodePool(plan(), 2) as pool:
        before = nurseries.nursery()
        for number, item in enumerate(pool.map([png(number)] for number in range(100))):
            assert not item.failures
            if number == 5:
                before._process.kill()
    assert nurseries.nursery() is not before


def test_without_pictures_nothing_is_started(monkeypatch) -> None:
    monkeypatch.setattr(nurseries, "Nursery", None)
    with DecodePool(plan(), 2) as pool:
        assert [item.pixels for item in pool.map([[], []])] == [{"full": []}] * 2


def test_workers_that_cannot_work_are_an_error_and_not_an_endless_loop() -> None:
    with DecodePool(plan(), 2) as pool:
        pool.dispatcher._order["crops"] = "nonsense"
        with pytest.raises(NurseryError, match=r"end before they begin \(exit status 1\)"):
            pool.submit([png(1)]).result()
        with pytest.raises(NurseryError):
            pool.submit([png(1)])


def test_pictures_without_a_worker_to_be_had_are_an_error_for_every_item(monkeypatch) -> None:
    with DecodePool(plan(), 1, drill=True) as pool:
        starts, submitted = iter([pool.dispatcher._start]), threading.Event()

        def start_one():
            submitted.wait(20)
            for start in starts:
                return start()
            raise NurseryError("no memory")

        monkeypatch.setattr(pool.dispatcher, "_start", start_one)
        items = [b"DRILL crash"], [png(2), png(3)], [png(4)]
        waiting = [pool.submit(item) for item in items]
        submitted.set()
        for future in waiting:
            with pytest.raises(NurseryError, match="no memory"):
                future.result(timeout=20)


def test_a_closed_pool_lets_nobody_wait_for_ever() -> None:
    pool = DecodePool(plan(), 1, drill=True)
    waiting = [pool.submit([b"DRILL hang"]), pool.submit([png(1), png(2)]), pool.submit([png(3)])]
    pool.close()
    for future in waiting:
        with pytest.raises(NurseryError, match="closed"):
            future.result()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit([png(1)])


ORPHANS = """
import os, signal, sys
from mmrec.features.decoding.boxes import WHOLE
from mmrec.features.decoding.item import Crop, DecodePlan
from mmrec.features.decoding.pool import DecodePool
from mmrec.features.decoding.transform import ImageTransform
pool = DecodePool(DecodePlan({"full": [Crop(WHOLE, ImageTransform((2, 2)))]}, 9), 2, drill=True)
pool.submit([b"DRILL hang"])
pool.submit([b"DRILL hang"])
while len(pool.dispatcher._workers) < 2 or any(w.shared.place == (0, 0) for w in pool.dispatcher._workers):
    pass
print(*(worker.pid for worker in pool.dispatcher._workers), pool.dispatcher._workers[0].home._process.pid)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_killed_process_leaves_no_worker() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, timeout=60)
    pids = done.stdout.split()
    deadline = time.monotonic() + 15
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == 3 and not any(_runs(pid) for pid in pids), done.stderr


def _runs(pid: str) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
