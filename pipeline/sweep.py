"""`mmrec sweep`: every cell of a grid trained and evaluated alike, and one table of them all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..features.errors import InputError as FeaturesInputError
from ..features.errors import QualityGateError, TooManyFailuresError
from ..features.files import atomic_path, digest_json, write_json
from ..features.store import FeatureStore
from ..recsys.errors import InputError
from ..recsys.interactions import Dataset
from .cells import account_of, cell_key, run_cell
from .config import Config
from .extraction import extract
from .grid import Cell, load_grid
from .lock import locked
from .outcome import Outcome, seconds
from .publishing import split_log
from .run import make_encoder, open_store
from .sweep_report import Result, sweep_facts, sweep_text

log = logging.getLogger(__name__)


def sweep(path: Path, overrides: Sequence[str] = (), output: Path | None = None) -> Outcome:
    """Run what is not there yet and report everything; writes sweep.json and sweep.md beside the cells.

    Cells that fail are listed in `facts["failed"]`, and are tried again by the next call.
    """
    grid = load_grid(path, overrides, output)
    with locked(grid.folder):
        results = _Runner(len(grid.cells)).run(grid.cells)
        facts = sweep_facts(grid, results)
        text = sweep_text(facts)
        write_json(grid.folder / "sweep.json", facts)
        with atomic_path(grid.folder / "sweep.md") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return Outcome(facts, f"{text}\nAlso in {grid.folder / 'sweep.md'} and sweep.json.")


class _Runner:
    """Runs cells one after the other, so that each has the machine for itself; shares what they share."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self._encoders: dict[str, str | None] = {}  # folder -> None if it is made, or why it cannot be
        self._stores: dict[str, FeatureStore | str | None] = {}  # folder -> store, or why there is none
        self._datasets: dict[str, Dataset] = {}
        self._finished: dict[str, Result] = {}  # by key: cells of one lineage are run once

    def run(self, cells: Sequence[Cell]) -> list[Result]:
        results = []
        for number, cell in enumerate(cells, start=1):
            result = self._run(cell)
            results.append(result)
            log.info("cell %d of %d, %s: %s", number, self.n_cells, cell.name, _described(result))
        return results

    def _run(self, cell: Cell) -> Result:
        config = cell.config
        try:
            store = self._store(config)
            if isinstance(store, str):
                return Result(cell, config.output, reason=store)
            key = cell_key(config, self._dataset(config, store), store)
        except (FeaturesInputError, InputError, OSError) as error:
            return Result(cell, config.output, reason=str(error))
        if key in self._finished:
            twin = self._finished[key]
            return Result(cell, twin.folder, twin.account, reused=True)
        account = account_of(config.output, key)
        reused, reason = account is not None, None
        if account is None:
            reason = run_cell(config, key)
            account = None if reason else account_of(config.output, key)
        result = Result(cell, config.output, account, reason, reused)
        if account is not None:
            self._finished[key] = result
        return result

    def _store(self, config: Config) -> FeatureStore | str | None:
        folder = str(config.features)
        if folder not in self._stores:
            if config.makes_encoder and (reason := self._encoder(config)) is not None:
                return reason
            try:
                if config.catalog is not None or config.extract.foreign:
                    log.info("%s", extract(config).text)
                self._stores[folder] = open_store(config)
            except (FeaturesInputError, TooManyFailuresError, QualityGateError, OSError) as error:
                self._stores[folder] = str(error)
        return self._stores[folder]

    def _encoder(self, config: Config) -> str | None:
        """Make the encoder of [align] or [finetune], once for all cells; why that cannot be done, or None."""
        folder = str(config.encoder)
        if folder not in self._encoders:
            try:
                log.info("%s", make_encoder(config).text)
                self._encoders[folder] = None
            except (FeaturesInputError, InputError, TooManyFailuresError, OSError) as error:
                self._encoders[folder] = str(error)
        return self._encoders[folder]

    def _dataset(self, config: Config, store: FeatureStore | None) -> Dataset:
        asked = [part and part.model_dump(mode="json") for part in (config.interactions, config.publish)]
        published = str(config.published) if config.publish else None
        key = digest_json([asked, published, str(config.features) if store else None])
        if key not in self._datasets:
            self._datasets[key] = split_log(config, store).dataset
        return self._datasets[key]


def _described(result: Result) -> str:
    if result.account is None:
        return f"failed: {result.reason}"
    if result.reused:
        return "up to date"
    return f"done in {seconds(result.account['cost']['seconds'] or 0.0)}"
