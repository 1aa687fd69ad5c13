"""A training step recorded once as a CUDA graph and replayed: one launch in place of hundreds."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .models.base import GradientModel
from .step import Step
from .team import Triples

log = logging.getLogger(__name__)

Parts = dict[str, Tensor]
Work = Callable[[], Parts]
REHEARSALS = 3  # batches before the first recording, in which libraries set themselves up


class NotCapturable(RuntimeError):
    """The work cannot be recorded; the message says why."""


class Recorder(Protocol):
    """Both methods take work that reads and writes the same memory each time; so do its results."""

    def rehearse(self, work: Work) -> Parts:
        """Do the work as it will be recorded."""
        ...

    def record(self, work: Work) -> Work:
        """What does the work again each time it is called. The recording itself changes nothing that the work
        would change. Raises NotCapturable."""
        ...


class CapturedStep:
    """A `Step` for batches of one size: the first are taken plainly, then one is recorded, the rest replayed.

    Batches of another size, the last of an epoch, are taken plainly. Every batch is one step, rehearsed,
    recorded or not. A model that draws something per epoch (`start_epoch`) is recorded again in each, after
    one batch, since that first batch may do what the others do not. Where a recording fails, a warning gives
    the reason, and training goes on without.
    """

    def __init__(self, step: Step, batch_size: int, recorder: Recorder) -> None:
        self.step, self.batch_size, self.recorder = step, batch_size, recorder
        self._redraws = type(step.model).start_epoch is not GradientModel.start_epoch
        self._rehearsals = REHEARSALS  # to come
        self._inputs: Triples | None = None  # where the recorded step reads its batch
        self._replay: Work | None = None
        self._given_up = False

    def start_epoch(self) -> None:
        """Forget a recording that reads what the last epoch drew."""
        if self._redraws:
            self._replay = None
            self._rehearsals = max(self._rehearsals, 1)

    def __call__(self, triples: Triples) -> Parts:
        if self._given_up or len(triples[0]) != self.batch_size:
            return self.step(triples)
        inputs = self._filled(triples)
        if self._rehearsals:
            self._rehearsals -= 1
            return _copies(self.recorder.rehearse(lambda: self.step(inputs)))
        if self._replay is None:
            try:
                self._replay = self.recorder.record(lambda: self.step(inputs))
            except NotCapturable as error:
                name = type(self.step.model).__name__
                log.warning("the step of %s is not captured: %s; training goes on without", name, error)
                self._given_up, self._inputs = True, None
                self.step.clear()
                return self.step(triples)
        return _copies(self._replay())

    def _filled(self, triples: Triples) -> Triples:
        if self._inputs is None:
            users, positives, negatives = (part.clone() for part in triples)
            self._inputs = users, positives, negatives
        else:
            for place, part in zip(self._inputs, triples, strict=True):
                place.copy_(part)
        return self._inputs


def _copies(parts: Parts) -> Parts:
    """The next replay writes over its results."""
    return {name: part.clone() for name, part in parts.items()}


class CudaRecorder:
    """CUDA graphs, on a stream of their own. torch's default generator (dropout) draws anew in a replay."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._stream = device, torch.cuda.Stream(device)
        self._waits: list[str] = []  # places in the work where the host waits for the device

    def rehearse(self, work: Work) -> Parts:
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with warnings.catch_warnings(record=True) as seen, torch.cuda.stream(self._stream):
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                parts = work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        self._waits = [
            f"{Path(warning.filename).name}, line {warning.lineno}"
            for warning in seen
            if "synchronizing CUDA operation" in str(warning.message)
        ]
        return parts

    def record(self, work: Work) -> Work:
        if self._waits:
            raise NotCapturable(f"it waits for the GPU ({'; '.join(dict.fromkeys(self._waits))})")
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[self.device.index or 0]
        fresh = generator.clone_state()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                parts = work()
        except RuntimeError as error:
            generator.graphsafe_set_state(fresh)  # the old state still belongs to the broken recording
            raise NotCapturable(str(error).strip().partition("\n")[0] or "no reason given") from error

        def replay() -> Parts:
            graph.replay()
            return parts

        return replay
