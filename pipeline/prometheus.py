"""metrics.prom: what Prometheus' textfile collector reads of the last run."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..features.files import atomic_path
from .record import SUCCEEDED

Sample = tuple[Mapping[str, str], float]
_SHOWN = ("recall", "ndcg", "coverage")  # every figure is in the record and in evaluation.json
_HELP = {
    "mmrec_run_start_timestamp_seconds": "When the last run began.",
    "mmrec_run_success_timestamp_seconds": "When a run last ended well.",
    "mmrec_run_exit_code": "Exit code of the last run, 0 for success.",
    "mmrec_run_duration_seconds": "How long the last run took.",
    "mmrec_run_peak_memory_bytes": "Peak memory of the last run's process.",
    "mmrec_run_gpu_energy_joules": "Energy that a GPU used during the last run.",
    "mmrec_stage_duration_seconds": "How long a stage of the last run took.",
    "mmrec_stage_attempts": "How often a stage of the last run was begun.",
    "mmrec_stage_reused": "1 where the last run found a stage's artefact up to date.",
    "mmrec_items": "Items of the catalogue.",
    "mmrec_items_failed": "Items with an image or text that could not be read.",
    "mmrec_failures": "Images and texts that could not be read, by reason.",
    "mmrec_metric": "Mean of a metric of retrieval.",
    "mmrec_published_timestamp_seconds": "When the published bundle was made.",
    "mmrec_published_info": "1, with the id of the published bundle.",
}


def write_metrics(path: Path, run: str, records: Sequence[Mapping[str, Any]], published: Any) -> None:
    """Write the metrics of the last of `records` of the run folder called `run`; `published` is the account
    of the published bundle, or None. A reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(metrics_text(run, records, published), encoding="utf-8")


def metrics_text(run: str, records: Sequence[Mapping[str, Any]], published: Any) -> str:
    """The metrics in Prometheus' text format, samples of one name together under its help and type."""
    samples: dict[str, list[Sample]] = {name: [] for name in _HELP}
    for name, labels, value in _samples(records, published):
        if value is not None and math.isfinite(value):
            samples[name].append(({"run": run, **labels}, float(value)))
    lines = []
    for name, found in samples.items():
        if found:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge"]
            lines += [f"{name}{{{_labels(labels)}}} {value!r}" for labels, value in found]
    return "\n".join(lines) + "\n"


def _samples(
    records: Sequence[Mapping[str, Any]], published: Any
) -> Iterator[tuple[str, dict[str, str], float | None]]:
    last = records[-1]
    succeeded = [record for record in records if record["status"] == SUCCEEDED]
    yield "mmrec_run_start_timestamp_seconds", {}, _seconds(last["started"])
    if succeeded:
        yield "mmrec_run_success_timestamp_seconds", {}, _seconds(succeeded[-1]["finished"])
    yield "mmrec_run_exit_code", {}, last["exit_code"]
    yield "mmrec_run_duration_seconds", {}, last["seconds"]
    yield "mmrec_run_peak_memory_bytes", {}, last["memory"]["peak_memory_mb"] * 2**20
    for gpu, joules in (last.get("energy_joules") or {}).items():
        yield "mmrec_run_gpu_energy_joules", {"gpu": gpu}, joules
    for stage in last["stages"]:
        label = {"stage": stage["name"]}
        yield "mmrec_stage_duration_seconds", label, stage["seconds"]
        yield "mmrec_stage_attempts", label, stage["attempts"]
        if stage["up_to_date"] is not None:
            yield "mmrec_stage_reused", label, stage["up_to_date"]
        if stage["name"] == "features" and stage["facts"]:
            yield "mmrec_items", {}, stage["facts"]["items"]
            yield "mmrec_items_failed", {}, stage["facts"]["failed"]
            for reason, count in stage["facts"].get("reasons", {}).items():
                yield "mmrec_failures", {"reason": reason}, count
    for split, metrics in (last.get("metrics") or {}).items():
        for metric, value in metrics.items():
            if metric.partition("@")[0] in _SHOWN:
                yield "mmrec_metric", {"split": split, "metric": metric}, value
    if published is not None:
        yield "mmrec_published_timestamp_seconds", {}, _seconds(published["created"])
        yield "mmrec_published_info", {"id": published["id"]}, 1


def _seconds(time: str) -> float:
    return datetime.datetime.fromisoformat(time).timestamp()


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
