"""`mmrec tune`: trials on validation, then the best setting trained, indexed and evaluated."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..features.files import digest_json, fresh_folder, recover_folder
from ..features.store import FeatureStore
from ..recsys.config import TrainConfig
from ..recsys.errors import DivergedError, InputError
from ..recsys.grids import GRIDS
from ..recsys.interactions import Dataset
from ..recsys.models import model_class
from ..stages.dataset import digest_dataset, digest_store
from ..stages.end_to_end import ACCOUNT, FOLDERS
from ..stages.lineage import read_lineage
from ..stages.train import CODE_VERSION, left_out
from ..stages.train import train as train_stage
from .config import Config, write_config
from .lock import locked
from .outcome import Outcome
from .publishing import split_log
from .run import item_source, measure, open_store, train_and_index
from .space import Choices, Space, parse_space
from .summary import evaluation_text, index_text, train_text
from .trials import cell, trial_folder, trial_row, trials_text, tune_folder, write_best, write_trials
from .workers import in_processes

if TYPE_CHECKING:
    from .study import Study, Tried

log = logging.getLogger(__name__)


def tune(config: Config) -> Outcome:
    """Try settings until there are `tune.trials` of them, then train and evaluate the best one.

    Raises InputError without Optuna, without anything to search, or when every trial has failed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise InputError("mmrec tune needs Optuna, which is not installed: pip install 'optuna>=4'")
    from .study import repair

    space = search_space(config)
    with locked(config.output):
        store = open_store(config)
        dataset = split_log(config, store).dataset
        repair(tune_folder(config) / "journal.log")
        study = _open_study(config, space, dataset, store)
        _search(config, study, dataset, store)
        trials = study.tried()
        write_trials(trials, config)
        best = _best(trials)
        chosen = with_settings(config, best.settings)
        write_best(chosen, best, config)
        _reuse(trial_folder(config, best.number), config.output)
        model, index = train_and_index(chosen, store, dataset)
        evaluation = measure(chosen, store, dataset)
        write_config(chosen, config.output)
    facts = {
        "metric": config.train.metric,
        "trials": [trial_row(trial, config) for trial in trials],
        "best": {"trial": best.number, "value": best.value, "settings": best.settings},
        "model": model.facts(),
        "index": index.facts(),
        "evaluation": evaluation.evaluation,
    }
    stages = [train_text(model, config.output), index_text(index, config.output)]
    stages.append(evaluation_text(evaluation, config.output))
    return Outcome(facts, "\n".join([trials_text(trials, config), *stages]))


def search_space(config: Config) -> Space:
    """What the config searches: its own space, or the grid of the model's paper."""
    if config.tune.space is not None:
        return parse_space(config.tune.space)[0]
    grid = GRIDS[config.train.model]
    if not grid:
        raise InputError(f"{config.train.model} has no settings to search; name some in [tune.space]")
    return {key: Choices(values) for key, values in grid.items()}


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """`config` with values for keys such as "train.dim" and "train.lightgcn.n_layers"."""
    train = config.train.model_dump()
    for key, value in settings.items():
        _, *tables, name = key.split(".")
        target = train
        for inner in tables:
            target = target.setdefault(inner, {})
        target[name] = value
    return config.model_copy(update={"train": TrainConfig.model_validate(train)})


def _open_study(config: Config, space: Space, dataset: Dataset, store: FeatureStore | None) -> Study:
    """The study of exactly this search: other data or settings make another one, in the same journal."""
    from .study import Study

    fixed = {key: dimension.probes()[0] for key, dimension in space.items()}  # what is searched says nothing
    train = with_settings(config, fixed).train.model_dump(mode="json", exclude=left_out(config.train))
    asked = {key: [type(dimension).__name__, repr(dimension)] for key, dimension in sorted(space.items())}
    made_from = [asked, train, digest_dataset(dataset), digest_store(store) if store else None, CODE_VERSION]
    if config.fusion.kind != "none" and model_class(config.train.model).reads_views:
        made_from.append(config.fusion.settings())
    folder = tune_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{config.train.model}-{digest_json(made_from)[:8]}"
    return Study(folder / "journal.log", name, space, config.tune.seed)


def _search(config: Config, study: Study, dataset: Dataset, store: FeatureStore | None) -> None:
    study.recover()
    before = len(study.tried())
    if before:
        log.info("%d trials are there already", before)
    if config.tune.workers == 1:
        _work(config, study, dataset, store)
    else:
        in_processes(_worker, (config,), config.tune.workers)


def _work(config: Config, study: Study, dataset: Dataset, store: FeatureStore | None) -> None:
    """Try settings, one after the other, until enough have been drawn."""
    while (draw := study.draw(config.tune.trials)) is not None:
        chosen = with_settings(config, draw.settings)
        folder = trial_folder(config, draw.number) / "model"
        started = time.perf_counter()
        try:
            source = item_source(chosen)
            train_stage(dataset, store, chosen.train, folder, fusion=chosen.fusion, source=source)
        except DivergedError as error:
            log.warning("trial %d (%s) failed: %s", draw.number, _short(draw.settings), error)
            study.fail(draw, str(error))
            continue
        # Read back: a trial that is up to date, from before a kill, reports no figures.
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        value = metrics["validation"][config.train.metric]
        seconds = time.perf_counter() - started
        epochs = {"best_epoch": metrics["best_epoch"], "epochs": len(metrics["history"])}
        study.finish(draw, value, {**epochs, "seconds": seconds})
        log.info("trial %d (%s): %s %.4f", draw.number, _short(draw.settings), config.train.metric, value)


def _worker(config: Config) -> None:
    store = open_store(config)
    dataset = split_log(config, store).dataset
    _work(config, _open_study(config, search_space(config), dataset, store), dataset, store)


def _best(trials: Sequence[Tried]) -> Tried:
    """The highest value; of equal ones the first."""
    finished = [trial for trial in trials if trial.value is not None]
    if not finished:
        reason = trials[0].reason if trials else "none was tried"
        raise InputError(f"all {len(trials)} trials failed (the first: {reason}); narrow [tune.space]")
    return max(finished, key=lambda trial: (trial.value, -trial.number))


def _reuse(trial: Path, output: Path) -> None:
    """Put the bundle of a trial, and what encoders were trained with it, in the place of those of the run,
    unless these are the same already. The bundle comes last, as it does in training."""
    lineage = read_lineage(trial / "model" / "config.json", "lineage")
    for name, account in (*((folder, ACCOUNT) for folder in FOLDERS.values()), ("model", "config.json")):
        recover_folder(output / name)
        own, found = (read_lineage(folder / name / account, "lineage") for folder in (trial, output))
        if lineage is not None and own == lineage != found:
            with fresh_folder(output / name) as fresh:
                shutil.copytree(trial / name, fresh, dirs_exist_ok=True)


def _short(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.removeprefix('train.')} {cell(value)}" for key, value in settings.items())
