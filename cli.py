"""The command line: one command per verb; parse, call one function, print its result."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from .pipeline.process import settle_process
from .stages.exchange.names import ExportFormat, ImportFormat

if TYPE_CHECKING:
    from .pipeline.config import Config
    from .pipeline.outcome import Outcome
    from .stages.extraction.parts import Part

app = typer.Typer(
    name="mmrec",
    help="From an item catalogue (images, text) and an interaction log to a measured multimodal recommender.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path,
    typer.Option("--config", "-c", metavar="FILE", help="TOML file that describes the run; see examples/."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the config; repeatable."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Run folder, in place of run.output.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DropUnknown = Annotated[
    bool, typer.Option("--drop-unknown", help="Drop interactions with items that are not in the catalogue.")
]

# Commands that write, in one process.
ALONE = (
    *("extract", "evaluate", "run", "publish", "tune", "sweep"),
    *("import", "export", "recommend", "report", "demo"),
)


class LogFormat(StrEnum):
    """What is written to stderr."""

    text = "text"
    json = "json"


class Engine(StrEnum):
    """Who makes the shards of a feature store."""

    local = "local"
    ray = "ray"


class _ReasonOptional(TyperCommand):
    """`--retry-failed` may stand without its reason, for which Typer has no option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = []
        for arg, following in zip(args, [*args[1:], "-"], strict=True):
            given.append(arg)
            if arg == "--retry-failed" and following.startswith("-"):
                given.append("any")
        return super().parse_args(ctx, given)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings and errors only.")] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option("--log-format", envvar="MMREC_LOG_FORMAT", help="Log lines for people, or a JSON each."),
    ] = LogFormat.text,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"mmrec {installed('mmrec')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit
    settle_process()
    rank = _rank(context.invoked_subcommand)
    level = logging.DEBUG if verbose else logging.WARNING if quiet or rank else logging.INFO
    _start_logging(level, log_format is LogFormat.json)


@app.command(
    cls=_ReasonOptional, epilog="Example: mmrec extract -c examples/movielens-posters.toml --retry-failed"
)
def extract(
    config: ConfigFile,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Make part I of N only, counted from 0 as in $SLURM_ARRAY_TASK_ID of --array=0-N-1 and "
            "$JOB_COMPLETION_INDEX: shards I, I + N, I + 2 N, ...; then --merge.",
        ),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Make the shards of all parts the store.")] = False,
    retry_failed: Annotated[
        str | None,
        typer.Option(
            "--retry-failed",
            metavar="[REASON]",
            help="Encode items that failed for this reason once more, or all that failed.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Measure a sample; print time, disk and memory for all items, and what to change.",
        ),
    ] = False,
    engine: Annotated[
        Engine, typer.Option("--engine", help="This process, or the actors of a Ray cluster.")
    ] = Engine.local,
    address: Annotated[
        str | None,
        typer.Option("--address", help="With --engine ray: a running cluster, as ray.init takes it."),
    ] = None,
    set_: Overrides = None,
    output: Output = None,
    json: AsJson = False,
) -> None:
    """Encode every new or changed item of the catalogue into the feature store."""
    part = _part(shard)
    for alone, option in ((merge, "--merge"), (dry_run, "--dry-run")):
        if alone and ((merge and dry_run) or part is not None or retry_failed is not None):
            raise typer.BadParameter("writes no shards, so it stands alone", param_hint=option)
    if engine is Engine.ray and (part is not None or merge or dry_run):
        raise typer.BadParameter("ray makes all shards, and merges them", param_hint="--engine")
    if engine is Engine.local and address is not None:
        raise typer.BadParameter("only --engine ray has a cluster to go to", param_hint="--address")
    with _user_errors():
        from .pipeline import extraction

        loaded = _load(config, set_, output)
        if merge:
            outcome = extraction.merge(loaded)
        elif dry_run:
            outcome = extraction.rehearse(loaded)
        elif engine is Engine.ray:
            outcome = extraction.extract_on_ray(loaded, address, retry_failed)
        elif part is not None:
            outcome = extraction.extract_part(loaded, part, retry_failed)
        else:
            outcome = extraction.extract(loaded, retry_failed)
        _print(outcome, json)


@app.command(epilog="Example: mmrec align -c examples/alignrec-posters.toml --set align.epochs=30")
def align(config: ConfigFile, set_: Overrides = None, output: Output = None, json: AsJson = False) -> None:
    """Pre-train a multimodal encoder on the catalogue; mmrec extract takes it as beit3:RUN/encoder."""
    with _user_errors():
        from .pipeline import run as pipeline

        outcome = pipeline.align(_load(config, set_, output))
        if outcome is not None:
            _print(outcome, json)


@app.command(epilog="Example: mmrec finetune -c examples/finetune-posters.toml --set finetune.method=lora")
def finetune(config: ConfigFile, set_: Overrides = None, output: Output = None, json: AsJson = False) -> None:
    """Fine-tune an encoder, or one of images with one of texts, on the catalogue's image-text pairs.

    mmrec extract takes what comes of it.
    """
    with _user_errors():
        from .pipeline import run as pipeline

        outcome = pipeline.finetune(_load(config, set_, output))
        if outcome is not None:
            _print(outcome, json)


@app.command(epilog="Example: mmrec train -c examples/amazon-baby.toml --set train.dim=128")
def train(
    config: ConfigFile,
    set_: Overrides = None,
    output: Output = None,
    drop_unknown: DropUnknown = False,
    json: AsJson = False,
) -> None:
    """Train the recommender on cached features and interactions; write the model bundle and its index."""
    with _user_errors():
        from .pipeline import run as pipeline

        outcome = pipeline.train(_load(config, set_, output, drop_unknown))
        if outcome is not None:
            _print(outcome, json)


@app.command(epilog="Example: mmrec evaluate -c examples/amazon-baby.toml --json")
def evaluate(
    config: ConfigFile,
    features: Annotated[
        bool, typer.Option("--features", help="Judge the features alone, before anything is trained.")
    ] = False,
    set_: Overrides = None,
    output: Output = None,
    drop_unknown: DropUnknown = False,
    json: AsJson = False,
) -> None:
    """Measure retrieval through the index on held-out interactions, warm and cold."""
    with _user_errors():
        from .pipeline import run as pipeline

        stage = pipeline.judge if features else pipeline.evaluate
        _print(stage(_load(config, set_, output, drop_unknown)), json)


@app.command(epilog="Example: mmrec run -c examples/movielens-posters.toml")
def run(
    config: ConfigFile,
    set_: Overrides = None,
    output: Output = None,
    drop_unknown: DropUnknown = False,
    json: AsJson = False,
) -> None:
    """Run all stages in order and skip what is up to date: the command that a scheduler calls."""
    with _user_errors():
        from .pipeline import nightly

        _print(nightly.nightly(_load(config, set_, output, drop_unknown), config), json)


@app.command(epilog="Example: mmrec status -c run.toml --json")
def status(config: ConfigFile, set_: Overrides = None, output: Output = None, json: AsJson = False) -> None:
    """Show what is up to date, stale or missing and why, who is at work, and how the last runs ended."""
    with _user_errors():
        from .pipeline import status as overview

        _print(overview.status(_load(config, set_, output)), json)


@app.command(epilog="Example: mmrec publish -c run.toml --force")
def publish(
    config: ConfigFile,
    force: Annotated[
        bool, typer.Option("--force", help="Also what the gate refuses, or what was rolled back.")
    ] = False,
    set_: Overrides = None,
    output: Output = None,
    drop_unknown: DropUnknown = False,
    json: AsJson = False,
) -> None:
    """Publish a finished run folder as `mmrec run` does at its end, through the gate."""
    with _user_errors():
        from .pipeline import run as pipeline

        _print(pipeline.publish(_load(config, set_, output, drop_unknown), force), json)


@app.command(epilog="Example: mmrec rollback -c run.toml --to 20261121T030000Z")
def rollback(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The publish folder, in place of a config.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="TOML file that names the folder.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="ID", help="The bundle to publish again.")] = None,
    set_: Overrides = None,
    output: Output = None,
    json: AsJson = False,
) -> None:
    """Publish an earlier bundle again; the run that made the present one does not come back unasked."""
    if (folder is None) == (config is None):
        raise typer.BadParameter("name the publish folder, or a config with -c", param_hint="DIR")
    with _user_errors():
        from .pipeline import publishing

        place = folder if config is None else _load(config, set_, output).published
        assert place is not None  # one of the two is there
        _print(publishing.rollback(place, to), json)


@app.command(epilog="Example: mmrec recommend runs/shop/published -o lists.parquet -k 20 --deny sold-out.txt")
def recommend(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="Parquet file, a row for each place of a list."),
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A publish folder, a bundle or a run folder.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="TOML file that names the folder.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Length of a list.")] = 20,
    users: Annotated[
        Path | None, typer.Option("--users", metavar="FILE", help="Ids of the users; default: all.")
    ] = None,
    new_users: Annotated[
        Path | None,
        typer.Option(
            "--new-users",
            metavar="FILE",
            help="Table of user_id and item_id: lists for these, by what they had.",
        ),
    ] = None,
    new_items: Annotated[
        Path | None,
        typer.Option(
            "--new-items",
            metavar="DIR",
            help="Feature store of the whole catalogue: its untrained items take part, by their content.",
        ),
    ] = None,
    similar_items: Annotated[
        bool, typer.Option("--similar-items", help="Lists of items for items, in place of users.")
    ] = False,
    items: Annotated[
        Path | None,
        typer.Option("--items", metavar="FILE", help="With --similar-items: ids of the items; default: all."),
    ] = None,
    allow: Annotated[
        Path | None,
        typer.Option(
            "--allow", metavar="FILE", help="Item ids, or user and item ids: only these are listed."
        ),
    ] = None,
    deny: Annotated[
        Path | None,
        typer.Option("--deny", metavar="FILE", help="Item ids, or user and item ids: these are not listed."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", metavar="CONDITION", help="Of the catalogue: 'category = shoes', or !=; repeatable."
        ),
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="List what users had already, too.")
    ] = False,
    index: Annotated[
        bool, typer.Option("--index", help="Search through the index: approximate, unless it is flat.")
    ] = False,
    memory_mb: Annotated[
        int, typer.Option("--memory-mb", min=1, help="Budget of blocks, beside the model itself.")
    ] = 1024,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    set_: Overrides = None,
    json: AsJson = False,
) -> None:
    """Write the best items for all or listed users, for new users, or for items, to Parquet."""
    if (folder is None) == (config is None):
        raise typer.BadParameter("name a folder, or a config with -c", param_hint="DIR")
    for option, given in (("--users", users), ("--new-users", new_users), ("--include-seen", include_seen)):
        if similar_items and given:
            raise typer.BadParameter("is about lists for users", param_hint=option)
    if new_users is not None and (users is not None or include_seen):
        raise typer.BadParameter(
            "makes lists for these alone, without what they had", param_hint="--new-users"
        )
    if items is not None and not similar_items:
        raise typer.BadParameter("only --similar-items makes lists for items", param_hint="--items")
    if index and similar_items:
        raise typer.BadParameter("finds items for users, not neighbours", param_hint="--index")
    with _user_errors():
        from .pipeline import recommendation

        request = recommendation.Request(
            k, users, new_users, new_items, similar_items, items, allow, deny, tuple(where or ()),
            include_seen, index, memory_mb, device,
        )  # fmt: skip
        source = (
            recommendation.open_config(_load(config, set_, None))
            if config is not None
            else recommendation.open_folder(folder or Path())
        )
        _print(recommendation.recommend(source, request, output), json)


@app.command(epilog="Example: mmrec tune -c examples/tiktok.toml --trials 30 --workers 2")
def tune(
    config: ConfigFile,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Trials in all, those of earlier calls included.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that train at the same time.")
    ] = None,
    set_: Overrides = None,
    output: Output = None,
    drop_unknown: DropUnknown = False,
    json: AsJson = False,
) -> None:
    """Search for the best settings on validation, then train and evaluate those: test is read once."""
    with _user_errors():
        from .pipeline import tuning

        given = {"trials": trials, "workers": workers}
        counts = [f"tune.{key}={value}" for key, value in given.items() if value is not None]
        _print(tuning.tune(_load(config, [*(set_ or []), *counts], output, drop_unknown)), json)


@app.command(epilog="Example: mmrec sweep examples/cliper-ablation.toml --set train.epochs=100")
def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="TOML file with a base config and a [sweep] section.")
    ],
    set_: Overrides = None,
    output: Output = None,
    json: AsJson = False,
) -> None:
    """Run every cell of a grid alike and report them in one table; what is up to date is not run again."""
    with _user_errors():
        from .pipeline import sweep as pipeline
        from .pipeline.exit_codes import FAILURES

        outcome = pipeline.sweep(file, set_ or [], output)
        _print(outcome, json)
    if outcome.facts["failed"]:
        raise typer.Exit(FAILURES)


@app.command(epilog="Example: mmrec compare runs/lightgcn runs/freedom --metric recall@20 --json")
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Evaluated run folders; the first is the reference."),
    ],
    split: Annotated[str, typer.Option("--split", help="Split whose users are compared.")] = "test",
    metric: Annotated[list[str], typer.Option("--metric", help="Metric at a cut-off; repeatable.")] = [  # noqa: B006
        "recall@20",
        "ndcg@20",
    ],
    json: AsJson = False,
) -> None:
    """Test runs against the first, user by user: bootstrap intervals, Wilcoxon, Holm-corrected."""
    if len(runs) < 2:
        raise typer.BadParameter("name at least two run folders", param_hint="RUN")
    with _user_errors():
        from .pipeline import comparison

        _print(comparison.compare(runs, split, metric), json)


@app.command(epilog="Example: mmrec inspect runs/movielens-posters --similarity --worst 50")
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder or a feature store.")],
    verify: Annotated[bool, typer.Option("--verify", help="Check the checksum of every shard.")] = False,
    similarity: Annotated[
        bool, typer.Option("--similarity", help="Show how well texts fit images, worst items first.")
    ] = False,
    worst: Annotated[int, typer.Option("--worst", min=0, help="With --similarity: items listed.")] = 20,
    temperature: Annotated[
        float, typer.Option("--temperature", min=1e-6, help="With --similarity: of the weights of the views.")
    ] = 0.2,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="With --similarity: every item, as Parquet."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show what is in a run folder or a feature store."""
    if output is not None and not similarity:
        raise typer.BadParameter("only --similarity writes a file", param_hint="--output")
    with _user_errors():
        from .pipeline import inspection

        if similarity:
            _print(inspection.inspect_similarity(folder, worst, temperature, output, verify), json)
        else:
            _print(inspection.inspect(folder, verify), json)


@app.command("import", epilog="Example: mmrec import mmrec-toolbox data/baby -o baby")
def import_(
    format_: Annotated[ImportFormat, typer.Argument(metavar="FORMAT", help="How the data is laid out.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder with the data.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="New or empty folder, or that of an earlier import."
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Which set is meant, where SOURCE holds several.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Take over another tool's data: catalogue, interactions, features, and a config to run them with."""
    with _user_errors():
        from .pipeline import exchange

        _print(exchange.import_data(format_, source, output, name), json)


@app.command(epilog="Example: mmrec export recbole runs/tiktok -o dataset/tiktok")
def export(
    format_: Annotated[ExportFormat, typer.Argument(metavar="FORMAT", help="How the files are laid out.")],
    run_: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="New or empty folder, or that of an earlier export."
        ),
    ],
    view: Annotated[
        list[str] | None,
        typer.Option("--view", metavar="NAME=VIEW", help="A view, and what it is called there; repeatable."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a run's splits, features and vectors for another tool."""
    with _user_errors():
        from .pipeline import exchange

        _print(exchange.export_run(format_, run_, output, exchange.parse_views(view or [])), json)


@app.command(epilog="Example: mmrec report runs/movielens-posters -o report.html")
def report(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A run folder, in place of a config.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="TOML file that describes the run.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Default: report.html in the run folder."),
    ] = None,
    users: Annotated[int, typer.Option("--users", min=0, help="Users whose lists are shown.")] = 6,
    items: Annotated[int, typer.Option("--items", min=0, help="Items whose neighbours are shown.")] = 3,
    worst: Annotated[
        int, typer.Option("--worst", min=0, help="Items shown whose texts fit their picture worst.")
    ] = 12,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COLUMN", help="Column of the catalogue with names.")
    ] = None,
    set_: Overrides = None,
    json: AsJson = False,
) -> None:
    """Write one self-contained HTML file about a run: results, lists with pictures, failures, lineage."""
    if (folder is None) == (config is None):
        raise typer.BadParameter("name a run folder, or a config with -c", param_hint="DIR")
    if folder is not None and set_:
        raise typer.BadParameter("changes a config that -c names", param_hint="--set")
    with _user_errors():
        from .pipeline import reporting

        options = reporting.ReportOptions(users, items, worst, label=label)
        if folder is not None:
            _print(reporting.report_folder(folder, options, output), json)
        else:
            assert config is not None  # one of the two is there
            _print(reporting.report(_load(config, set_, None), options, output), json)


@app.command(epilog="Example: mmrec demo --output /tmp/shop")
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the shop and its runs.")
    ] = Path("runs/demo"),
    json: AsJson = False,
) -> None:
    """Generate a small shop, run the whole job on it and compare three recommenders, warm and cold."""
    with _user_errors():
        from .pipeline import demo as shop_demo

        _print(shop_demo.demo(output), json)


def _rank(command: str) -> int:
    """This process's number among those that torchrun started, 0 where it is alone."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return 0
    if command in ALONE:
        raise typer.BadParameter(
            f"torchrun started several processes (WORLD_SIZE), but `mmrec {command}` works in one; "
            "run `mmrec align`, `mmrec finetune` or `mmrec train` with torchrun, and then this without"
        )
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    values = {name: os.environ.get(name, "") for name in names}
    if not all(value.isdecimal() for value in values.values()):
        raise typer.BadParameter(
            f"WORLD_SIZE is set, so several processes were started, but {values} are not all numbers; "
            "start them with torchrun, or unset WORLD_SIZE"
        )
    return int(values["RANK"])


def _part(text: str | None) -> Part | None:
    from .stages.extraction.parts import Part

    try:
        return None if text is None else Part.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shard") from error


def _load(
    config: Path, overrides: list[str] | None, output: Path | None, drop_unknown: bool = False
) -> Config:
    from .pipeline.config import load_config

    extra = [*(overrides or []), *(["interactions.drop_unknown=true"] if drop_unknown else [])]
    return load_config(config, extra, output)


def _print(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(outcome.facts, indent=2))
    else:
        typer.echo(outcome.text)


def _start_logging(level: int, as_json: bool) -> None:
    from .stages.progress import log_handler

    logging.basicConfig(level=logging.WARNING, handlers=[log_handler(as_json)], force=True)
    logging.getLogger("mmrec").setLevel(level)
    if as_json:  # a bug's traceback too
        sys.excepthook = lambda *error: logging.getLogger("mmrec").critical("%s", error[1], exc_info=error)


@contextmanager
def _user_errors() -> Iterator[None]:
    """One line on stderr and the documented exit code for what a user can mend; bugs keep their traceback."""
    from .features.errors import InputError as FeaturesInputError
    from .features.errors import QualityGateError, TooManyFailuresError
    from .pipeline.deadline import TimeLimitError
    from .pipeline.exit_codes import exit_code
    from .pipeline.lock import LockedError
    from .recsys.errors import InputError as RecsysInputError
    from .recsys.errors import PeerFailed

    # A scheduler stops a job with SIGTERM: leave the same way as with Ctrl-C, state kept.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (FeaturesInputError, RecsysInputError, OSError) as error:
        _fail(_describe(error), exit_code(error))
    except (TooManyFailuresError, QualityGateError, LockedError, TimeLimitError) as error:
        _fail(str(error), exit_code(error))
    except KeyboardInterrupt as error:
        _fail("interrupted; finished work is kept, run the same command to go on", exit_code(error))
    except PeerFailed as error:  # it has said why
        raise typer.Exit(exit_code(error)) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or "the output folder"
        what = "no space left on this disk" if error.errno == errno.ENOSPC else "your disk quota is used up"
        return f"{where}: {what}; free some and run the same command to go on"
    return str(error)


def _fail(message: str, code: int) -> NoReturn:
    from .stages.progress import logs_json

    if logs_json():
        logging.getLogger("mmrec").error("%s", message)
    else:
        for line in message.splitlines():
            typer.echo(f"error: {line}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":  # torchrun -m mmrec.cli
    app()
