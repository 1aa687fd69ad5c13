"""Pictures to workers and pixels back: a thread that feeds the workers of one pool and buries the dead."""

from __future__ import annotations

import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import ImageFailure
from .nursery import Nursery, NurseryError, forget, nursery
from .shared import BUFFERS, ImageCrops, Place, SharedBuffers
from .worker import CHUNK, FINISHED, LENGTH, OUT_OF_MEMORY

CHUNK_PICTURES = 8
_CHUNK_BYTES = 4 * 2**20  # of contents, past which a chunk takes no further picture
_CHUNK_PIXELS = 8 * 2**20  # bytes of pixels, past which chunks are of fewer pictures
_JPEG = b"\xff\xd8\xff"
_TICK = 1.0  # seconds between looks at the clock
_BEFORE = Place(0, 0)
_BARREN = 3  # workers that may die, one after the other, before any has decoded a picture


@dataclass(slots=True)
class Picture:
    """A picture to be decoded, and who is to be told."""

    content: bytes
    tell: Callable[[ImageCrops | ImageFailure], None]
    fail: Callable[[BaseException], None]  # where there are no workers to be had
    suspect: bool = False  # a worker died of it, perhaps


class _Chunk(NamedTuple):
    number: int
    buffer: int
    pictures: Sequence[Picture]


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker as the dispatcher sees it."""

    pid: int
    link: socket.socket
    shared: SharedBuffers
    home: Nursery
    jpegs: bool  # whether it has loaded what reads them fast
    chunks: deque[_Chunk] = field(default_factory=deque)  # given and not yet finished, oldest first
    free: list[int] = field(default_factory=lambda: list(range(BUFFERS)))
    given: int = 0  # chunks
    place: Place = _BEFORE
    age: float = 0.0  # seconds that it was seen at that place

    def give(self, pictures: Sequence[Picture]) -> None:
        self.given += 1
        chunk = _Chunk(self.given, self.free.pop(), pictures)
        self.chunks.append(chunk)  # first, so that they are known of whatever happens
        contents = [picture.content for picture in pictures]
        self.shared.put(chunk.buffer, contents)
        lengths = b"".join(LENGTH.pack(len(content)) for content in contents)
        with suppress(ConnectionError):  # it is dead, as its link will say
            self.link.sendall(CHUNK.pack(chunk.number, chunk.buffer, len(pictures)) + lengths)

    def collect(self) -> None:
        """Hand out the results of the oldest chunk."""
        chunk = self.chunks.popleft()
        for number, picture in enumerate(chunk.pictures):
            picture.tell(self.shared.result(chunk.buffer, number))
        self.free.append(chunk.buffer)

    def autopsy(self) -> tuple[Picture | None, list[Picture]]:
        """Hand out what a dead worker finished; the picture that it was at, and those that it never began."""
        number, at = self.shared.place
        suspect, others = None, []
        for chunk in self.chunks:
            begun = len(chunk.pictures) if chunk.number < number else at if chunk.number == number else -1
            for position, picture in enumerate(chunk.pictures):
                if position < begun:
                    picture.tell(self.shared.result(chunk.buffer, position))
                elif position == begun:
                    suspect = picture
                else:
                    others.append(picture)
        return suspect, others

    def older(self, seconds: float) -> float:
        """How long it has been at its picture, counted by a clock that stops while this process does."""
        place = self.shared.place
        if place != self.place or not self.chunks:
            self.place, self.age = place, 0.0
        else:
            self.age += min(seconds, _TICK)
        return self.age

    def close(self) -> None:
        self.link.close()
        self.shared.close()


class Dispatcher:
    """Sends pictures to up to so many workers, which are started as pictures come."""

    def __init__(self, order: dict[str, Any], size: int, workers: int, seconds: float) -> None:
        pictures = max(1, min(CHUNK_PICTURES, _CHUNK_PIXELS // size))
        self._order = {**order, "pictures": pictures, "size": size}
        self._most, self._seconds = workers, seconds
        self._queue: deque[Picture] = deque()
        self._workers: list[_Worker] = []
        self._jpegs = False  # whether any was among the pictures so far
        self._barren = 0
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._rung = self._closed = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def put(self, pictures: Sequence[Picture]) -> None:
        """Have them decoded after those that wait."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the decoding pool is closed")
            if self._error is not None:
                raise self._error
            if self._order["fast"] and not self._jpegs:
                self._jpegs = any(picture.content.startswith(_JPEG) for picture in pictures)
            self._queue.extend(pictures)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
                self._thread.start()
        self._ring()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        if self._thread is not None:
            self._ring()
            self._thread.join()
        for end in (self._bell, self._ear):
            end.close()
        self._selector.close()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._bell.send(b"!")

    def _run(self) -> None:
        try:
            self._selector.register(self._ear, selectors.EVENT_READ)
            while not self._closed:
                self._feed()
                self._listen()
            self._end(NurseryError("the decoding pool was closed"))
        except Exception as error:  # whoever waits for a picture must hear of it
            self._end(error)

    def _end(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            waiting = [*self._queue]
            self._queue.clear()
        for worker in [*self._workers]:
            waiting += [picture for chunk in worker.chunks for picture in chunk.pictures]
            self._kill(worker)
        for picture in waiting:
            picture.fail(error)

    def _listen(self) -> None:
        """Wait for workers, new pictures or the clock."""
        started = time.monotonic()
        busy = any(worker.chunks for worker in self._workers)
        tick = min(_TICK, self._seconds / 4) if busy else None
        for key, _ in self._selector.select(tick):
            if key.data is None:
                self._ear.recv(64)
                self._rung = False  # after the bell is silent, before the queue is looked at: no ring is lost
            elif not self._hear(key.data):
                self._bury(key.data)
        elapsed = time.monotonic() - started
        for worker in [*self._workers]:
            if worker.older(elapsed) > self._seconds:
                self._bury(worker, timed_out=True)

    def _feed(self) -> None:
        """Give idle workers something to do, then busy ones something to go on with."""
        for worker in [*self._workers]:
            if self._jpegs and not worker.jpegs and not worker.chunks:
                self._kill(worker)  # its place is for one that has loaded more
        while self._queue and len(self._workers) < self._most and all(w.chunks for w in self._workers):
            self._give(self._start())
        for already in range(BUFFERS):
            for worker in self._workers:
                if self._queue and len(worker.chunks) == already and worker.jpegs >= self._jpegs:
                    self._give(worker)

    def _give(self, worker: _Worker) -> None:
        share = -(-len(self._queue) // (BUFFERS * self._most))
        pictures: list[Picture] = []
        size = 0
        while self._queue and len(pictures) < min(share, self._order["pictures"]) and size < _CHUNK_BYTES:
            pictures.append(self._queue.popleft())
            size += len(pictures[-1].content)
        worker.give(pictures)

    def _start(self) -> _Worker:
        link, other = socket.socketpair()
        shared = SharedBuffers.create(self._order["pictures"], self._order["size"])
        order = {**self._order, "jpegs": self._jpegs}
        home = nursery()
        try:
            pid = home.fork(order, [other.fileno(), *shared.files])
        except NurseryError:
            forget(home)
            home = nursery()
            pid = home.fork(order, [other.fileno(), *shared.files])
        other.close()
        worker = _Worker(pid, link, shared, home, order["jpegs"])
        self._workers.append(worker)
        self._selector.register(link, selectors.EVENT_READ, worker)
        return worker

    def _hear(self, worker: _Worker) -> bool:
        """Collect the chunks that the worker has finished; False when it has hung up."""
        try:
            heard = worker.link.recv(BUFFERS * FINISHED.size)
        except ConnectionError:
            return False
        for _ in range(len(heard) // FINISHED.size):
            worker.collect()
            self._barren = 0
        return bool(heard)

    def _bury(self, worker: _Worker, timed_out: bool = False) -> None:
        """Keep what a dead or late worker finished, judge the picture that it was at, do the others again.

        A picture that a worker died of is tried once more, by a fresh one that has done nothing else: a leak,
        or somebody who killed the worker, may have been to blame.
        """
        status = self._kill(worker)
        suspect, others = worker.autopsy()
        self._queue.extendleft(reversed(others))
        if worker.shared.place == _BEFORE:
            self._barren += 1
            if self._barren >= _BARREN:
                raise NurseryError(
                    f"decoding workers end before they begin ({_how(status)}); free memory or processes, "
                    "or take fewer extract.workers"
                )
        if suspect is None:
            return
        if timed_out and worker.shared.place == worker.place:
            message = f"not decoded within {self._seconds:g} s (extract.decode_seconds)"
            suspect.tell(ImageFailure("timeout", message))
        elif suspect.suspect:
            suspect.tell(self._verdict(status))
        else:
            suspect.suspect = True
            self._queue.appendleft(suspect)  # there it is known of, should there be no worker to be had
            worker = self._start()
            worker.give([self._queue.popleft()])

    def _kill(self, worker: _Worker) -> int | None:
        """End the worker, if it has not ended; its exit status, where it can be known."""
        self._workers.remove(worker)
        self._selector.unregister(worker.link)
        try:
            return worker.home.end(worker.pid)
        except NurseryError:  # then its workers are gone with it
            forget(worker.home)
            return None
        finally:
            worker.close()

    def _verdict(self, status: int | None) -> ImageFailure:
        if status == OUT_OF_MEMORY:
            limit = self._order["memory_mb"]
            return ImageFailure(
                "out_of_memory", f"decoding takes more than {limit} MiB (extract.decode_memory_mb)"
            )
        return ImageFailure("crashed", f"the decoder's process ended twice ({_how(status)})")


def _how(status: int | None) -> str:
    """How a process ended."""
    if status is None:
        return "how is not known"
    if status >= 0:
        return f"exit status {status}"
    name = signal.Signals(-status).name
    return f"{name}, perhaps for lack of memory" if name == "SIGKILL" else name
