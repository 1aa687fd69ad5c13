"""What people read on the terminal after a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..stages.encoder_run import EncoderReport
from ..stages.end_to_end import FOLDERS
from ..stages.evaluate import EvaluateReport
from ..stages.extract import ExtractReport
from ..stages.extraction.advice import size
from ..stages.extraction.estimate import Estimate
from ..stages.index import IndexReport
from ..stages.measured import SPLIT_TITLES, cutoffs, main_cutoff
from ..stages.train import TrainReport
from .outcome import counts, number, seconds, table
from .publishing import PublishReport

_ACCURACY = ("recall", "ndcg", "precision", "map", "mrr", "hit")
_CUTS = (1, 5, 10)  # of an encoder's retrieval
_LISTS = ("coverage", "novelty", "gini", "arp")


def extract_text(report: ExtractReport, folder: Path) -> str:
    took = seconds(report.seconds)
    if report.up_to_date:
        text = f"features: up to date, {report.items:,} items reused ({folder})"
    elif report.merged:
        text = f"features: {report.shards:,} shards with {report.items:,} items merged in {took} ({folder})"
    else:
        done = f"{report.encoded:,} items new or changed, {report.reused:,} reused in {took}"
        of_part = f" part {report.part}, {report.shards:,} shards," if report.part else ""
        text = f"features:{of_part} {done} ({folder})"
    if report.failed:
        ledger = f" (see {folder / report.ledger})" if report.part is None else ""
        text += f"\n  {report.failed:,} items with failures: {counts(report.reasons)}{ledger}"
    if report.part:
        text += "\n  once all parts are done, `mmrec extract --merge` makes them the store"
    return text


def estimate_text(estimate: Estimate, folder: Path) -> str:
    """What an extraction would take, step by step, and what to change."""
    rows = [
        [step, f"{1000 * each:,.3f}", f"{1 / each:,.0f}" if each else "-"]
        for step, each in estimate.steps.items()
    ]
    rate = f"{1 / estimate.item_seconds:,.1f} items/s" if estimate.item_seconds else "no time"
    memory = "?" if estimate.memory is None else size(estimate.memory)
    of_gpu = f", {size(estimate.gpu_memory)} of the GPU's" if estimate.gpu_memory is not None else ""
    lines = [
        f"{estimate.items:,} items, as {estimate.sampled:,} of them were measured; nothing was written "
        f"({folder})",
        f"  time: {seconds(estimate.seconds)} ({rate}; the limit is {estimate.limit})",
        f"  disk: {size(estimate.disk)} in {estimate.shards:,} shards ({size(estimate.disk_free)} free)",
        f"  memory: {memory}{of_gpu}",
    ]
    if estimate.failed:
        lines.append(f"  {estimate.failed:,} of the sample failed: {counts(estimate.reasons)}")
    lines.append("\n" + table("steps, each with all its workers", ["step", "ms an item", "items/s"], rows))
    lines += [f"\nchange {advice.change}: {advice.because}" for advice in estimate.advice]
    return "\n".join(lines)


def encoder_text(made: str, report: EncoderReport, folder: Path) -> str:
    """What came of the training of an encoder, `made` saying of which kind."""
    if report.up_to_date:
        return f"encoder: up to date, reused ({folder})"
    losses = [number(measured["held_out"]["loss"]) for measured in (report.first, report.last)]
    text = (
        f"encoder: {made} in {seconds(report.seconds)} ({report.kept_epoch} epochs; {report.held_out:,} of "
        f"{report.items:,} items held out, loss {' -> '.join(losses)}); {_why(report.changed)} ({folder})"
    )
    before, after = report.tested or (report.first["retrieval"], report.last["retrieval"])
    if after:
        rows = [
            [of, *(f"{number(before[key])} -> {number(after[key])}" for key in keys)]
            for of in ("text", "image")
            if (keys := [f"{of}_recall@{k}" for k in _CUTS])
        ]
        rows.append(["chance", *(number(after[f"chance@{k}"]) for k in _CUTS)])
        text += "\n\n" + table(
            "held-out pairs, before and after", ["found", *(f"R@{k}" for k in _CUTS)], rows
        )
    if report.failed:
        text += (
            f"\n  {report.failed:,} items with failures: {counts(report.reasons)} ({folder / report.ledger})"
        )
    return text


def train_text(report: TrainReport, output: Path) -> str:
    if report.up_to_date:
        return f"model: up to date, {report.model} reused ({output / 'model'})"
    epochs = f"{report.epochs} epochs, best {report.best_epoch}, " if report.epochs else ""
    figures = ", ".join(f"{name} {number(value)}" for name, value in report.validation.items())
    text = (
        f"model: {report.model} trained in {seconds(report.seconds)} ({epochs}validation {figures}); "
        f"{_why(report.changed)} ({output / 'model'})"
    )
    if report.encoder:
        drift = ", ".join(f"{view} {number(value)}" for view, value in report.encoder["drift"].items())
        text += f"\n  its encoder moved by 1 - cosine {drift} ({output / FOLDERS['encoder']})"
    return text


def index_text(report: IndexReport, output: Path) -> str:
    if report.up_to_date:
        return f"index: up to date, {report.kind} reused ({output / 'index'})"
    figures = ", ".join(f"{name} {value:,.4g}" for name, value in report.measured.items())
    return (
        f"index: {report.kind} built in {seconds(report.seconds)} ({figures}); "
        f"{_why(report.changed)} ({output / 'index'})"
    )


def evaluation_text(report: EvaluateReport, output: Path) -> str:
    evaluation = report.evaluation
    done = f"measured in {seconds(report.seconds)}; {_why(report.changed)}"
    parts = [
        f"evaluation: {'up to date, reused' if report.up_to_date else done} ({output / 'evaluation.json'})"
    ]
    parts += [evaluation_tables(evaluation)]
    return "\n\n".join(parts)


def evaluation_tables(evaluation: Mapping[str, Any]) -> str:
    """Every split in two figures, all figures of the test split, and its segments."""
    tables = [_overview(evaluation)]
    if evaluation["splits"].get("test", {}).get("metrics"):
        tables += [_split_table("test", evaluation), _segment_table("test", evaluation)]
    return "\n\n".join(tables)


def comparison_text(title: str, evaluations: Mapping[str, Mapping[str, Any]], k: int) -> str:
    """One row per model: warm test items, then cold ones."""
    columns = {
        f"test recall@{k}": ("test", f"recall@{k}"),
        f"test ndcg@{k}": ("test", f"ndcg@{k}"),
        f"cold items recall@{k}": ("test_cold", f"recall@{k}"),
        f"among cold recall@{k}": ("test_among_cold", f"recall@{k}"),
    }
    rows = []
    for model, evaluation in evaluations.items():
        cells = [_margin(evaluation["splits"][split], metric) for split, metric in columns.values()]
        rows.append([model, *cells])
    return table(title, ["model", *columns], rows)


def _overview(evaluation: Mapping[str, Any]) -> str:
    measured = {split: result for split, result in evaluation["splits"].items() if result["metrics"]}
    if not measured:
        return "no split has a user to evaluate"
    k = main_cutoff(next(iter(measured.values()))["metrics"])
    columns = ["split", "users", "candidates"]
    columns += [f"{evaluation['model']} {metric}@{k}" for metric in ("recall", "ndcg")]
    columns += [f"{name} recall@{k}" for name in evaluation["baselines"]]
    rows = []
    for split, result in measured.items():
        row = [SPLIT_TITLES[split], f"{result['users']:,}", f"{result['candidates']:,}"]
        row += [_margin(result, f"{metric}@{k}") for metric in ("recall", "ndcg")]
        row += [_mean(splits.get(split), f"recall@{k}") for splits in evaluation["baselines"].values()]
        rows.append(row)
    return table("evaluation (95 % intervals)", columns, rows)


def _split_table(split: str, evaluation: Mapping[str, Any]) -> str:
    result = evaluation["splits"][split]
    baselines = {name: splits.get(split) for name, splits in evaluation["baselines"].items()}
    rows = [
        [metric, _interval(result, metric), *(_mean(other, metric) for other in baselines.values())]
        for metric in _shown(result["metrics"])
    ]
    return table(
        f"{SPLIT_TITLES[split]} split", ["metric", f"{evaluation['model']} (95 % interval)", *baselines], rows
    )


def _segment_table(split: str, evaluation: Mapping[str, Any]) -> str:
    k = main_cutoff(evaluation["splits"][split]["metrics"])
    rows = []
    for kind, segments in evaluation["segments"][split].items():
        for name, segment in segments.items():
            figures = [_interval(segment, f"{metric}@{k}") for metric in ("recall", "ndcg")]
            rows.append([f"{kind}: {name}", f"{segment['users']:,}", f"{segment['positives']:,}", *figures])
    columns = ["segment", "users", "positives", f"recall@{k}", f"ndcg@{k}"]
    return table(f"{SPLIT_TITLES[split]} split by segment", columns, rows)


def _shown(metrics: Mapping[str, Any]) -> list[str]:
    """Recall and NDCG at every cut-off, the other metrics at one."""
    k = main_cutoff(metrics)
    names = [f"{metric}@{cutoff}" for metric in ("recall", "ndcg") for cutoff in cutoffs(metrics)]
    names += [f"{metric}@{k}" for metric in (*_ACCURACY[2:], *_LISTS)]
    return [name for name in names if name in metrics]


def _mean(result: Mapping[str, Any] | None, metric: str) -> str:
    estimate = (result or {}).get("metrics", {}).get(metric)
    return number(estimate["mean"] if estimate else None)


def _interval(result: Mapping[str, Any] | None, metric: str) -> str:
    estimate = (result or {}).get("metrics", {}).get(metric)
    if not estimate or estimate["low"] is None:
        return _mean(result, metric)
    return f"{number(estimate['mean'])} [{number(estimate['low'])}, {number(estimate['high'])}]"


def _margin(result: Mapping[str, Any], metric: str) -> str:
    """The mean, plus or minus half of its interval."""
    estimate = result["metrics"][metric]
    if estimate["low"] is None:
        return _mean(result, metric)
    return f"{number(estimate['mean'])} ± {number((estimate['high'] - estimate['low']) / 2)}"


def _why(changed: Sequence[str]) -> str:
    return "nothing was there before" if list(changed) == ["new"] else f"changed: {', '.join(changed)}"


def publish_text(report: PublishReport, folder: Path) -> str:
    """What became of a bundle, and how it compares with the one before."""
    if report.up_to_date:
        return f"published: up to date, {report.id} ({folder})"
    if report.withdrawn:
        return f"published: {report.id} stays; this run was rolled back ({folder})"
    lines = [f"published: {report.id} in {seconds(report.seconds)}; {_why(report.changed)} ({folder})"]
    for name, figure in report.figures.items():
        change = figure.get("change") if isinstance(figure, dict) else None
        if change is not None and change["mean"] is not None:
            lines.append(
                f"  probe {name}: {number(figure['published'])} -> {number(figure['new'])} "
                f"({change['mean']:+.1%})"
            )
    lines += [f"  {note}" for note in report.notes]
    lines += [f"  published by force: {line}" for line in report.broken]
    if report.pruned:
        lines.append(f"  removed: {', '.join(report.pruned)}")
    return "\n".join(lines)
