"""The record of a run: runs/<id>/run.json, there from its first second, so that a killed one is seen."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..features.files import write_json
from ..features.sources.policy import shown
from ..features.tables import list_files
from ..features.versions import library_versions
from .config import Config
from .exit_codes import exit_code
from .history import new_id, now
from .resources import gpu_energy, peak_memory, peak_memory_of_children
from .steps import FAILED, Step

SCHEMA = 1
RUNS, FILE = "runs", "run.json"
RUNNING, SUCCEEDED, KILLED = "running", "succeeded", "killed"  # beside FAILED
_LIBRARIES = (
    *("mmrec", "faiss-cpu", "faiss-gpu", "numpy", "open_clip_torch", "pillow", "polars", "pyarrow"),
    *("scipy", "timm", "torch", "torchvision"),
)


class RunRecord:
    """One run of `mmrec run`, written down as it goes."""

    def __init__(self, config: Config, file: Path | None) -> None:
        self._started, self._energy = time.perf_counter(), gpu_energy()
        self.folder = _fresh(config.output / RUNS)
        self.steps: list[Step] = []
        self.facts: dict[str, Any] = {
            "schema": SCHEMA,
            "id": self.folder.name,
            "status": RUNNING,
            "exit_code": None,
            "error": None,
            "started": now(),
            "finished": None,
            "seconds": None,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "command": [shown(argument) for argument in sys.argv],
            "config_file": None if file is None else str(file.absolute()),
            "git": None if file is None else git_state(file.absolute().parent),
            "python": platform.python_version(),
            "system": platform.platform(),
            "versions": library_versions(_LIBRARIES),
            "config": shareable(config.model_dump(mode="json", exclude_none=True)),
            "inputs": input_stamps(config),
            "stages": [],
        }
        self.write()

    @property
    def id(self) -> str:
        return self.folder.name

    def write(self) -> None:
        """Bring run.json up to date."""
        self.facts["stages"] = [step.as_json() for step in self.steps]
        self.facts["seconds"] = time.perf_counter() - self._started
        write_json(self.folder / FILE, self.facts)

    def finish(self, error: BaseException | None, results: dict[str, Any]) -> None:
        """Write down how it ended and what came of it."""
        self.facts |= {
            "status": SUCCEEDED if error is None else FAILED,
            "exit_code": exit_code(error),
            "error": None if error is None else {"kind": type(error).__name__, "message": str(error)},
            "finished": now(),
            **results,
            "memory": {**peak_memory(), "peak_memory_of_children_mb": peak_memory_of_children()},
            "energy_joules": _used(self._energy, gpu_energy()),
        }
        self.write()


def read_records(output: Path) -> list[dict[str, Any]]:
    """The records in the run folder `output`, oldest first; one that is damaged is left out."""
    records = []
    for path in sorted((output / RUNS).glob(f"*/{FILE}"), key=lambda path: path.parent.name):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # removed by a run that has just ended
            continue
        if isinstance(record, dict) and record.get("schema") == SCHEMA:
            records.append(record)
    return sorted(records, key=lambda record: record["started"])


def bury(output: Path, own: str) -> list[str]:
    """Mark runs that say that they are running, but for `own`, as killed; their ids. The caller holds the
    folder, so none of them can be alive."""
    running = [record for record in read_records(output) if record["status"] == RUNNING]
    killed = [record for record in running if record["id"] != own]
    for record in killed:
        record["status"] = KILLED
        write_json(output / RUNS / record["id"] / FILE, record)
    return [record["id"] for record in killed]


def prune_records(output: Path, keep: int, kept: Collection[str | None]) -> list[str]:
    """Remove all but the newest `keep` records and those named in `kept`; the ids of what was removed."""
    records = [record["id"] for record in read_records(output)]
    pruned = [name for name in records[:-keep] if name not in kept]
    for name in pruned:
        shutil.rmtree(output / RUNS / name)
    return pruned


def input_stamps(config: Config) -> dict[str, list[list[Any]]]:
    """Section -> [file, bytes, time of its last change in ns] of the tables on this disk that it names."""
    named = {
        "catalog": config.catalog.items if config.catalog else None,
        "interactions": config.interactions.path if config.interactions else None,
    }
    stamps: dict[str, list[list[Any]]] = {}
    for section, source in named.items():
        if source is None or "://" in source:
            continue
        try:
            files = [Path(file) for file in list_files(source)]
            stamps[section] = [[str(file), *_stamp(file)] for file in files]
        except (OSError, ValueError):  # the stage that reads it says what is wrong
            stamps[section] = []
    return stamps


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of the repository that `folder` is in, and whether files of it were changed since; None
    outside of one, or without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "changed": bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _fresh(runs: Path) -> Path:
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        folder = runs / new_id(runs)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # another process has begun in the same second
            continue


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def shareable(value: Any) -> Any:
    """The same without what URIs may hold of secrets."""
    if isinstance(value, dict):
        return {key: shareable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shareable(item) for item in value]
    return shown(value) if isinstance(value, str) and "://" in value else value


def _used(before: dict[str, float] | None, after: dict[str, float] | None) -> dict[str, float] | None:
    """Joules by GPU between two readings; of a whole GPU, so also what others did on it."""
    if before is None or after is None:
        return None
    return {gpu: after[gpu] - before[gpu] for gpu in after if gpu in before}
