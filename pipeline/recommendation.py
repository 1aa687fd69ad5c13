"""`mmrec recommend`: lists of the best items for users, or of neighbours for items, as a Parquet file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ..features.errors import InputError
from ..stages.published import ACCOUNT, is_published, open_published
from ..stages.recommend.run import Report, Request
from ..stages.recommend.run import recommend as make_lists
from ..stages.recommend.source import Source, published_source, run_source
from .config import Config, load_config
from .outcome import Outcome, seconds

_CONFIG = "config.toml"


def open_folder(folder: Path) -> Source:
    """The model of a publish folder, a bundle or a run folder.

    Raises FileNotFoundError for a folder that is none of these, InputError for a damaged one.
    """
    if is_published(folder) or (folder / ACCOUNT).is_file():
        return published_source(open_published(folder))
    if not (folder / "model").is_dir():
        raise FileNotFoundError(
            f"{folder}: neither a publish folder (no link 'current'), a bundle (no {ACCOUNT}) nor a run "
            "folder (no model/)"
        )
    if not (folder / _CONFIG).is_file():
        return run_source(folder, None, None)
    config = load_config(folder / _CONFIG, output=folder)
    return run_source(folder, config.interactions, config.catalog)


def open_config(config: Config) -> Source:
    """What is published of this config, or else its run folder."""
    if is_published(config.published):
        return published_source(open_published(config.published))
    if config.publish is not None:
        raise FileNotFoundError(f"{config.published}: nothing is published here yet; use `mmrec run` first")
    return run_source(config.output, config.interactions, config.catalog)


def recommend(source: Source, request: Request, output: Path) -> Outcome:
    """Write the lists to `output`, as a whole or not at all."""
    if output.suffix.lower() not in (".parquet", ".pq"):
        raise InputError(f"{output}: lists are written as Parquet; name a file that ends in .parquet")
    if output.is_dir():
        raise InputError(f"{output} is a folder; name a file")
    report = make_lists(source, request, output)
    facts = {"file": str(output), "source": source.name, "k": request.k, **asdict(report)}
    facts |= {"lists_per_second": round(report.rate, 1)}
    return Outcome({"recommend": facts}, _text(report, request, output))


def _text(report: Report, request: Request, output: Path) -> str:
    whom = "items" if request.similar_items else "users"
    new = f", {report.new_items:,} of them new" if report.new_items else ""
    lines = [
        f"lists of {request.k} for {report.lists:,} {whom}, {report.rows:,} rows -> {output}",
        f"{report.search}, {report.candidates:,} items{new}; {report.rate:,.0f} {whom}/s, "
        f"{seconds(report.total_seconds)} in all",
    ]
    if report.short:
        lines.append(f"{report.short:,} lists are shorter than {request.k}, {report.empty:,} of them empty")
    return "\n".join(lines)
