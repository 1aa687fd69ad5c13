"""Several processes that train one model: each takes its rows of every batch, and gradients are summed.

The global batch, the negatives and what an epoch draws come from the same seeds everywhere, so that a batch
is the same on all processes. What one process alone decides (validation, files) reaches the others through
the store that brought them together: a wait there has no time-out, and ends when another process fails.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from .errors import InputError, PeerFailed
from .team import State, Team, Triples

log = logging.getLogger(__name__)

T = TypeVar("T")
LONGEST_NAP = 0.05  # seconds between two looks at the store
PATIENCE = timedelta(hours=2)  # with a process that builds its graphs, or writes, longer than the others
GRACE = 2.0  # seconds in which the process that failed first can end first


class Processes(Team):
    """The processes of `torch.distributed`'s default group; `store` is theirs alone."""

    def __init__(self, store: Store, device: torch.device) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        self.store = store
        self._decisions = 0
        self._odd = torch.tensor(False, device=device)  # a parameter had a gradient on some processes only

    def place(self, device: str) -> str:
        return str(self.device)

    def share(self, triples: Triples) -> tuple[Triples, float]:
        """Consecutive rows. Who has none in a small batch takes the first, with share 0: all processes
        compute the same things in the same order."""
        n = len(triples[0])
        start, stop = n * self.rank // self.size, n * (self.rank + 1) // self.size
        users, positives, negatives = (part[start : max(stop, start + 1)] for part in triples)
        return (users, positives, negatives), (stop - start) / n

    def sum_gradients(self, dense: Sequence[Tensor], sparse: Sequence[Tensor]) -> None:
        """One reduction of all dense gradients; of sparse ones the rows are gathered. Equal on all processes,
        bit for bit on a CPU."""
        if dense:
            self._reduce(dense)
        if sparse:
            self._join(sparse)

    def _reduce(self, parameters: Sequence[Tensor]) -> None:
        held = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32)
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in parameters]
        flat = torch.cat([*(piece.reshape(-1) for piece in pieces), held.to(self.device)])
        *sums, holders = self.sum(flat).split([*(p.numel() for p in parameters), len(held)])
        self._odd |= ((holders > 0) & (holders < self.size)).any()
        for parameter, piece in zip(parameters, sums, strict=True):
            if parameter.grad is not None:
                parameter.grad = piece.view(parameter.shape)

    def _join(self, tables: Sequence[Tensor]) -> None:
        """The rows of all processes, one after the other; equal rows add up later."""
        mine = [_rows(table) for table in tables]
        counts = torch.tensor([len(rows) for rows, _ in mine], device=self.device)
        everyone = torch.stack(self._gathered(counts)).tolist()  # (size, number of tables)
        for table, parts, lengths in zip(tables, mine, zip(*everyone, strict=True), strict=True):
            if not sum(lengths):
                continue
            rows, values = (
                torch.cat([whole[:n] for whole, n in zip(wholes, lengths, strict=True)])
                for wholes in (self._gathered(_padded(part, max(lengths))) for part in parts)
            )
            table.grad = torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=False)

    def check(self) -> None:
        odd = bool(self._odd)
        self._odd.fill_(False)
        if odd:
            raise InputError(
                "a parameter had a gradient on some processes only, so their copies of the model have come "
                "apart; this model trains in one process only"
            )

    def _gathered(self, mine: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        with _contact():
            dist.all_gather(parts, mine.contiguous())
        return parts

    def sum(self, values: Tensor) -> Tensor:
        with _contact():
            dist.all_reduce(values)
        return values

    def align(self, tensors: Iterable[Tensor]) -> None:
        with _contact():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def decide(self, work: Callable[[], T]) -> T:
        key = f"decision-{self._decisions}"
        self._decisions += 1
        if self.leads:
            decision = work()
            with _contact():
                self.store.set(key, json.dumps(decision))
            return decision
        return json.loads(self._wait(key))

    def _wait(self, key: str) -> bytes:
        nap = 0.0005
        with _contact():
            while not self.store.check([key]):
                if self.store.check(["failure"]):
                    raise PeerFailed("another process failed")
                time.sleep(nap)
                nap = min(2 * nap, LONGEST_NAP)
            return self.store.get(key)

    def give(self, state: State | None) -> State | None:
        account = self.decide(lambda: state and (_kinds(state[0]), state[1]))
        if account is None:
            return None
        kinds, rest = account
        tensors = {
            name: torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
            if state is None
            else state[0][name].to(self.device)
            for name, (shape, dtype) in kinds.items()
        }
        self.align(tensors.values())
        return tensors, rest

    def leader_first(self, work: Callable[[], T]) -> T:
        mine = [work()] if self.leads else []
        self.decide(lambda: None)
        return mine[0] if mine else work()

    def part(self) -> None:
        """Wait until the leader is through with its work, then leave together."""
        self.decide(lambda: None)
        with _contact():
            dist.barrier()
        dist.destroy_process_group()


def _rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (n,) of a table that have a gradient, with repetitions, and their gradients (n, ...)."""
    if table.grad is None:
        return torch.empty(0, dtype=torch.int64, device=table.device), table.detach()[:0]
    gradient = table.grad if table.grad.is_sparse else table.grad.to_sparse(1)
    return gradient._indices()[0], gradient._values()


def _padded(part: Tensor, length: int) -> Tensor:
    """With zeros at the end: a gathering takes equal shapes."""
    return torch.cat([part, part.new_zeros(length - len(part), *part.shape[1:])])


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[list[int], str]]:
    """Shape and type of each, JSON-able."""
    return {name: (list(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}


@contextmanager
def _contact() -> Iterator[None]:
    try:
        yield
    except PeerFailed:
        raise
    except RuntimeError as error:  # torch's errors of networks, back ends and stores derive from it
        log.debug("lost contact: %s", error)
        raise ConnectionError(
            "lost contact with the other processes (one was killed, or is out of memory?); what the last "
            "checkpoint holds is kept, run the same command to go on"
        ) from error


@contextmanager
def team(device: str) -> Iterator[Team]:
    """The processes that torchrun started together with this one; `Team()` where it is alone.

    `device` is auto, cpu or cuda. When several fail, the first raises its own error, the others PeerFailed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team()
        return
    found, rank, size = next(iter(rendezvous("env://")))
    store = PrefixStore("mmrec", found)
    try:
        place = _place(device)
        gpu = place if place.type == "cuda" else None
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            timeout=PATIENCE,
            store=found,
            rank=rank,
            world_size=size,
            device_id=gpu,
        )
        processes = Processes(store, place)
        log.info("%d processes train together", size)
        yield processes
        processes.part()
    except BaseException as error:
        first = _fails_first(store)
        _end_threads()
        if first:
            raise
        # torchrun reports the process that ends first, then sends the others a signal
        with suppress(KeyboardInterrupt):
            time.sleep(GRACE)
        raise PeerFailed("another process failed") from error


def _end_threads() -> None:
    """Those of gloo may outlive the interpreter, and then abort it; NCCL would wait for lost processes."""
    if dist.is_initialized() and dist.get_backend() == "gloo":
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _fails_first(store: Store) -> bool:
    """Let the others know that this process ends; whether it is the first, whose reason matters."""
    try:
        return store.add("failure", 1) == 1
    except RuntimeError:  # the store has ended with its process
        return True


def _place(device: str) -> torch.device:
    """The GPU of this process's number on its machine, or the CPU."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device '{device}' is for one process; with several, say auto, cpu or cuda")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    number, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= found:
        raise InputError(
            f"process {number} of this machine has no GPU: torch sees {found}. Start one process for each, "
            "or set train.device=cpu."
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
