"""What an actor of Ray does: one shard after the other, with a model that it keeps. Knows nothing of Ray."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Any

from ...features.config import CatalogConfig, ExtractConfig
from ...features.errors import InputError
from ...features.store import FeatureStoreWriter
from .flow import Flow, Made, meter_of
from .plan import Plan
from .ray_notes import Notes
from .report import retried_reasons
from .stopping import Stop

ATTEMPTS = 10  # at one shard, by actors that die over it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one shard, on its way from an actor to the process that hands shards out."""

    items: int = 0  # 0 where no shard was made: there was an error before, or a signal to stop
    encoded: int = 0
    seconds: dict[str, float] = field(default_factory=dict)  # that each step was busy
    warnings: list[str] = field(default_factory=list)
    error: str = ""  # one that a user can mend
    errno: int = 0  # where it is one of the operating system's ...
    file: str = ""  # ... about this file

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        return cls(**json.loads(text))

    def raise_error(self) -> None:
        """Raise the error, if there was one, as it would have been met with here."""
        if self.errno:
            raise OSError(self.errno, self.error, self.file or None)
        if self.error:
            raise InputError(self.error)


class ShardActor:
    """Makes the shards whose numbers it is given, until the notes say stop. One that is there already, as it
    should be, stays: who is given the shards of an actor that died does nothing twice.
    """

    def __init__(
        self, catalog: CatalogConfig | None, config: ExtractConfig, retry: str | None, notes: Notes
    ) -> None:
        self._given, self._retry, self._notes = (catalog, config, notes.folder), retry, notes
        self._warnings = _Warnings()
        self._flow: Flow | None = None
        self._failed: Outcome | None = None  # with the first error, which is the last

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """The `Outcome` of each shard in the column "shard"."""
        return {"outcome": [self._outcome(int(shard)).to_json() for shard in batch["shard"]]}

    def _outcome(self, shard: int) -> Outcome:
        if self._failed is not None:
            return self._failed
        if self._notes.stopped():
            return Outcome()
        try:  # Ray would bury what a user can mend in a traceback of its own
            if self._notes.begin(shard) >= ATTEMPTS:
                raise InputError(
                    f"{ATTEMPTS} processes in a row have died over shard {shard}, most likely for want of "
                    "memory; take fewer extract.actors, or a smaller extract.batch_size or extract.shard_rows"
                )
            made = self._make(shard)
            self._notes.end(shard)
            return made
        except InputError as error:
            self._failed = Outcome(error=str(error))
        except OSError as error:
            what, file = error.strerror or str(error), str(error.filename or "")
            self._failed = Outcome(error=what, errno=error.errno or 0, file=file)
        return self._failed

    def _make(self, shard: int) -> Outcome:
        flow = self._load()
        made: list[Made] = []
        before = self._meter.worked()
        self._writer.look_around()  # for what another actor may have finished before it died
        flow.run([shard], lambda _: None, made.append)
        return Outcome(
            items=len(self._plan.items(shard)),
            encoded=made[0].encoded,
            seconds={step: seconds - before[step] for step, seconds in self._meter.worked().items()},
            warnings=self._warnings.taken(),
        )

    def _load(self) -> Flow:
        """At the first shard: Ray restarts an actor that dies then, but not one that never began."""
        if self._flow is None:
            logging.getLogger("mmrec").addHandler(self._warnings)
            self._plan = Plan(*self._given)
            self._meter = meter_of(self._plan, 0)
            retried = retried_reasons(self._retry)
            self._writer = FeatureStoreWriter(self._plan.folder, self._plan.space(), retried, alone=False)
            self._flow = Flow(self._plan, self._writer, self._meter, Stop())
        return self._flow


class _Warnings(logging.Handler):
    """Keeps what is warned of, until somebody takes it to where it is read."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def taken(self) -> list[str]:
        messages, self._messages = self._messages, []
        return messages
