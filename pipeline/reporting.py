"""`mmrec report`: a run folder as one HTML file for people."""

from __future__ import annotations

from pathlib import Path

import tomli_w

from ..features.catalog import Catalog, read_catalog
from ..features.config import ExtractConfig
from ..features.errors import InputError
from ..features.files import atomic_path
from ..features.store import FeatureStore
from ..recsys.config import EvaluateConfig
from ..recsys.interactions import Dataset
from ..stages.extraction.advice import size
from ..stages.published import ACCOUNT
from ..stages.report.report import ReportOptions, Sources, make_report
from ..stages.report.run_files import RunFiles, or_why, read_run
from .config import Config, load_config
from .lock import locked
from .outcome import Outcome
from .publishing import split_log
from .record import read_records, shareable

FILE = "report.html"
_CONFIG = "config.toml"
_NO_STORE = "a published bundle holds no features; report the run folder"


def report_folder(folder: Path, options: ReportOptions, target: Path | None = None) -> Outcome:
    """The report of the run in `folder`, with the config that it was run with."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run folder")
    file = folder / _CONFIG
    config = load_config(file, output=folder) if file.is_file() else None
    if target is None and _is_bundle(folder):
        raise InputError(f"{folder}: a published bundle, which nothing is added to; say where with --output")
    return _report(folder, config, options, target)


def report(config: Config, options: ReportOptions, target: Path | None = None) -> Outcome:
    """The report of the run that `config` describes; `target` defaults to report.html in its folder."""
    return _report(config.output, config, options, target)


def _report(folder: Path, config: Config | None, options: ReportOptions, target: Path | None) -> Outcome:
    run = read_run(folder)
    target = target or folder / FILE
    if _is_bundle(folder):  # complete, and never written to
        made = make_report(_sources(run, config), options)
    else:
        with locked(folder):
            made = make_report(_sources(run, config), options)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        temporary.write_text(made.html, encoding="utf-8")
    n_bytes = len(made.html.encode())
    facts = {
        "report": str(target),
        "bytes": n_bytes,
        "pictures": made.pictures,
        "sections": made.sections,
        "left_out": made.left_out,
    }
    lines = [f"report: {len(made.sections)} sections, {made.pictures:,} pictures, {size(n_bytes)} ({target})"]
    lines += [f"  left out: {title}: {why}" for title, why in made.left_out.items()]
    return Outcome(facts, "\n".join(lines))


def _sources(run: RunFiles, config: Config | None) -> Sources:
    place = run.folder / "features" if config is None else config.features
    store = _NO_STORE if _is_bundle(run.folder) else or_why(lambda: FeatureStore(place))
    catalog, dataset = _data(config, None if isinstance(store, str) else store)
    return Sources(
        run=run,
        store=store,
        catalog=catalog,
        dataset=dataset,
        extract=ExtractConfig() if config is None else config.extract,
        evaluate=EvaluateConfig() if config is None else config.evaluate,
        index_device="auto" if config is None else config.index.device,
        records=read_records(run.folder),
        config=None
        if config is None
        else tomli_w.dumps(shareable(config.model_dump(mode="json", exclude_none=True))),
    )


def _data(config: Config | None, store: FeatureStore | None) -> tuple[Catalog | str, Dataset | str]:
    if config is None:
        why = f"the folder holds no {_CONFIG} that names the data; name a config with -c"
        return why, why
    settings = config.catalog
    catalog = "the config has no [catalog]" if settings is None else or_why(lambda: read_catalog(settings))
    return catalog, or_why(lambda: split_log(config, store).dataset)


def _is_bundle(folder: Path) -> bool:
    return (folder / ACCOUNT).is_file()
