"""The trials of a search, kept in Optuna's journal: drawn by a seeded sampler, safe to kill at any time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ..recsys.errors import InputError
from .space import Choices, Range, Space, size

NUMBER, FACTS, REASON = "number", "facts", "reason"  # what is noted about a trial


@dataclass(frozen=True, slots=True)
class Draw:
    """A setting to try; `number` counts from 0 and stays with the setting when a kill has it tried again."""

    number: int
    settings: dict[str, Any]
    trial: optuna.Trial


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial that has ended; `value` is None, and `reason` says why, where it failed."""

    number: int
    settings: dict[str, Any]
    value: float | None
    facts: dict[str, Any]
    reason: str | None


class Study:
    """One search over `space`, known by `name`; several processes may draw from it at once."""

    def __init__(self, journal: Path, name: str, space: Space, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.seed = space, seed
        self._distributions = {key: _distribution(dimension) for key, dimension in space.items()}
        # One lock for the journal and for drawing, held by the operating system: it dies with its process.
        self._lock = FileLock(journal.with_name(f".{journal.name}.lock"))
        try:
            storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=cast(Any, self._lock)))
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True
            )
        except (ValueError, KeyError) as error:
            raise InputError(f"{journal}: damaged ({error!r}); remove it to search afresh") from error

    def recover(self) -> None:
        """Mark trials of killed processes as failed and queue their settings; nobody else may draw now."""
        for trial in self._trials(TrialState.RUNNING):
            self._study.tell(trial.number, state=TrialState.FAIL)
            if NUMBER in trial.user_attrs:
                self._study.enqueue_trial(
                    trial.params, user_attrs={NUMBER: trial.user_attrs[NUMBER]}, skip_if_exists=False
                )

    def draw(self, trials: int) -> Draw | None:
        """The next setting; None once there are `trials` of them, or no other setting in the space.

        The sampler's seed is that of the setting's number, so that a search that was killed and taken up
        again draws what it would have drawn. A setting is not tried twice.
        """
        with self._lock:
            counted = [trial for trial in self._trials() if _counts(trial)]
            tried = {_key(trial.params) for trial in counted}
            queued = bool(self._trials(TrialState.WAITING))
            if len(counted) >= trials or (not queued and len(tried) == size(self.space)):
                return None
            numbers = [trial.user_attrs[NUMBER] for trial in self._trials() if NUMBER in trial.user_attrs]
            number = max(numbers, default=-1) + 1
            self._study.sampler = _sampler(self.seed, number)
            trial = self._study.ask(self._distributions)
            if _key(trial.params) in tried:
                self._study.tell(trial, state=TrialState.FAIL)
                self._study.enqueue_trial(self._untried(tried, number))
                trial = self._study.ask(self._distributions)
            number = trial.user_attrs.get(NUMBER, number)
            trial.set_user_attr(NUMBER, number)
        return Draw(number, self._settings(trial.params), trial)

    def finish(self, draw: Draw, value: float, facts: Mapping[str, Any]) -> None:
        draw.trial.set_user_attr(FACTS, dict(facts))
        self._study.tell(draw.trial, value)

    def fail(self, draw: Draw, reason: str) -> None:
        draw.trial.set_user_attr(REASON, reason)
        self._study.tell(draw.trial, state=TrialState.FAIL)

    def tried(self) -> list[Tried]:
        """Every trial that has ended, in the order of their numbers."""
        ended = [trial for trial in self._trials() if _counts(trial) and trial.state.is_finished()]
        trials = [
            Tried(
                trial.user_attrs[NUMBER],
                self._settings(trial.params),
                trial.value if trial.state == TrialState.COMPLETE else None,
                trial.user_attrs.get(FACTS, {}),
                trial.user_attrs.get(REASON),
            )
            for trial in ended
        ]
        return sorted(trials, key=lambda trial: trial.number)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self.space[key].setting(params[key]) for key in self.space}

    def _untried(self, tried: set[str], number: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, number])
        while True:  # ends: the caller has counted that there is one left
            params = {key: dimension.draw(rng) for key, dimension in self.space.items()}
            if _key(params) not in tried:
                return params


def repair(journal: Path) -> None:
    """Cut off the line that a killed process was writing; nobody else may use the journal now."""
    if not journal.is_file():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)


def _sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some releases call these options experimental
        state = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        return optuna.samplers.TPESampler(seed=state, multivariate=True, constant_liar=True)


def _distribution(dimension: Range | Choices) -> BaseDistribution:
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.drawn)
    if dimension.whole:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(low, high, log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is running or has been judged; those of killed processes are tried again."""
    noted = NUMBER in trial.user_attrs
    return noted and (trial.state in (TrialState.COMPLETE, TrialState.RUNNING) or REASON in trial.user_attrs)


def _key(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)
