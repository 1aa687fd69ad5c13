"""A run's settings and figures in MLflow or TensorBoard, for those who look at runs there."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..features.errors import InputError
from .config import Config

log = logging.getLogger(__name__)

_PACKAGES = {"mlflow": "mlflow", "tensorboard": "tensorboard"}  # what [run] track names -> what it needs
_LONGEST = 500  # letters of a setting that MLflow takes


def check_trackers(config: Config) -> None:
    """InputError for a tracker that is not installed, before any work."""
    missing = [name for name in config.run.track if importlib.util.find_spec(_PACKAGES[name]) is None]
    if missing:
        raise InputError(
            f"run.track names {', '.join(missing)}, which is not installed: pip install 'mmrec[track]'"
        )


def track(config: Config, record: Mapping[str, Any]) -> None:
    """Show a finished run in every tracker of `[run] track`; one that cannot be reached costs a warning."""
    for name in config.run.track:
        try:
            {"mlflow": _to_mlflow, "tensorboard": _to_tensorboard}[name](config, record)
        except OSError as error:
            log.warning("%s does not know of this run: %s", name, error)


def _to_mlflow(config: Config, record: Mapping[str, Any]) -> None:
    """As a run of the experiment that is called as the run folder, in `MLFLOW_TRACKING_URI`, or in
    mlflow.db of the run folder."""
    mlflow: Any = importlib.import_module("mlflow")  # need not be there where types are checked
    try:
        _log_to_mlflow(mlflow, config, record)
    except mlflow.exceptions.MlflowException as error:
        raise OSError(str(error)) from error


def _log_to_mlflow(mlflow: Any, config: Config, record: Mapping[str, Any]) -> None:
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{config.output.absolute() / 'mlflow.db'}")
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", config.output.absolute().name))
    with mlflow.start_run(run_name=record["id"]):
        settings = {name: str(value)[:_LONGEST] for name, value in _flat(record["config"])}
        mlflow.log_params(settings)
        mlflow.set_tags({"status": record["status"], "mmrec.run": record["id"]})
        mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in _figures(record)})
        for epoch, name, value in _history(config):
            mlflow.log_metric(f"train.{name.replace('@', '_at_')}", value, step=epoch)


def _to_tensorboard(config: Config, record: Mapping[str, Any]) -> None:
    """Into tensorboard/<id> of the run folder."""
    from torch.utils.tensorboard.writer import SummaryWriter

    with SummaryWriter(str(config.output / "tensorboard" / record["id"])) as writer:
        writer.add_text("config", "    " + json.dumps(record["config"], indent=2).replace("\n", "\n    "))
        for name, value in _figures(record):
            writer.add_scalar(name.replace(".", "/", 1), value, 0)
        for epoch, name, value in _history(config):
            writer.add_scalar(f"train/{name}", value, epoch)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _figures(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for split, metrics in (record.get("metrics") or {}).items():
        yield from ((f"{split}.{name}", value) for name, value in metrics.items() if value is not None)
    yield "run.seconds", record["seconds"]
    yield from ((f"seconds.{stage['name']}", stage["seconds"]) for stage in record["stages"])


def _history(config: Config) -> Iterator[tuple[int, str, float]]:
    """(epoch, name, value) of the training of the model that is there, whenever that was."""
    path: Path = config.output / "model" / "metrics.json"
    history = json.loads(path.read_text(encoding="utf-8"))["history"] if path.is_file() else []
    for epoch, row in enumerate(history, start=1):
        for name, value in row.items():
            if isinstance(value, int | float) and name != "epoch":
                yield epoch, name, value
