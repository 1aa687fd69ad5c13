"""The stages in order, each under the lock of its folder, each skipped when its artefact is up to date."""

from __future__ import annotations

import logging

import polars as pl

from ..features.catalog import read_catalog
from ..features.files import remove_stale_temporaries
from ..features.sources.listing import list_shards
from ..features.store import FeatureStore
from ..recsys.cleaning import clean
from ..recsys.interactions import Dataset
from ..recsys.parallel import team
from ..recsys.team import Team
from ..stages.align import align as align_stage
from ..stages.dataset import read_log
from ..stages.encoder_run import EncoderReport
from ..stages.end_to_end import ItemSource, trained_extract
from ..stages.evaluate import EvaluateReport
from ..stages.evaluate import evaluate as evaluate_stage
from ..stages.extract import check_failures, check_made_for
from ..stages.finetune import finetune as finetune_stage
from ..stages.index import IndexReport, build
from ..stages.judge import check_features
from ..stages.judge import judge as judge_stage
from ..stages.train import TrainReport
from ..stages.train import train as train_stage
from .config import Config, ConfigError, write_config
from .extraction import bring_up_to_date
from .judged import judged_tables, judged_text
from .lock import locked
from .outcome import Outcome
from .publishing import publish as publish_bundle
from .publishing import split_log
from .steps import Steps
from .summary import encoder_text, evaluation_text, extract_text, index_text, publish_text, train_text

log = logging.getLogger(__name__)


def align(config: Config) -> Outcome | None:
    """Pre-train the encoder of the run folder on the catalogue; under torchrun as `train`."""
    if config.align is None:
        raise ConfigError("nothing to align: the config has no [align] section; an empty one will do")
    return _make_together(config, config.align.device)


def finetune(config: Config) -> Outcome | None:
    """Fine-tune an encoder on the catalogue's pairs; under torchrun as `train`."""
    if config.finetune is None:
        raise ConfigError("nothing to fine-tune: the config has no [finetune] section; an empty one will do")
    return _make_together(config, config.finetune.device)


def train(config: Config) -> Outcome | None:
    """Stage 2: the model bundle and its index, from the feature store as it is.

    Under torchrun, its processes train together; only the first of them holds the lock, writes and has an
    outcome.
    """
    with team(config.train.device) as processes:
        if not processes.leads:
            store = open_store(config)
            dataset = split_log(config, store).dataset
            _train(config, store, dataset, processes)
            return None
        with locked(config.output):
            store = open_store(config)
            dataset = split_log(config, store).dataset
            report, index = train_and_index(config, store, dataset, processes)
            write_config(config, config.output)
    facts = {"model": report.facts(), "index": index.facts()}
    return Outcome(facts, f"{train_text(report, config.output)}\n{index_text(index, config.output)}")


def evaluate(config: Config) -> Outcome:
    """Metrics of the bundle in the run folder, through its index."""
    with locked(config.output):
        store = open_store(config)
        report = measure(config, store, split_log(config, store).dataset)
    return Outcome(report.evaluation, evaluation_text(report, config.output))


def judge(config: Config) -> Outcome:
    """The features alone, before anything is trained; QualityGateError, after the file is written, where they
    do not meet a limit. Those of an encoder that was trained end to end, where the config has one."""
    with locked(config.output):
        store = open_store(config if config.train.encoder == "frozen" else trained_config(config))
        report = judge_stage(split_log(config, store).dataset, store, config.evaluate, config.output)
    check_features(report.facts, config.evaluate.features)
    text = f"{judged_text(report)}\n\n{judged_tables(report.facts)}"
    return Outcome(report.facts, text)


def run(config: Config, steps: Steps | None = None, run_id: str | None = None) -> Outcome:
    """All stages; says of each whether it was reused, and why it was not.

    `steps` does them, by default each once. A run with an id publishes its bundle where the config says so.
    """
    steps = steps or Steps()
    lines, facts = [], {}
    interactions = steps.do("interactions", lambda: _checked_log(config))
    if config.makes_encoder:
        encoder = steps.do("encoder", lambda: make_encoder(config))
        lines.append(encoder.text)
        facts |= encoder.facts
        if not config.reads_made_encoder:
            log.warning(
                "features are extracted with '%s', not with the encoder that was made; name %s in "
                "extract.encoder to use it",
                config.extract.encoder,
                config.encoder,
            )
    if config.catalog is not None or config.extract.foreign:
        with locked(config.features):
            features = steps.do("features", lambda: bring_up_to_date(config))
        lines.append(extract_text(features, config.features))
        facts["features"] = features.facts()
    with locked(config.output):
        store = open_store(config)
        split = split_log(config, store, interactions)
        if config.evaluate.features.has_gate:
            judged = steps.do(
                "judged", lambda: judge_stage(split.dataset, store, config.evaluate, config.output)
            )
            check_features(judged.facts, config.evaluate.features)
            lines.append(judged_text(judged))
            facts["judged"] = judged.facts
        model, index = train_and_index(config, store, split.dataset, steps=steps)
        evaluation = steps.do("evaluation", lambda: measure(config, store, split.dataset))
        write_config(config, config.output)
        lines += [train_text(model, config.output), index_text(index, config.output)]
        lines.append(evaluation_text(evaluation, config.output))
        facts |= {"model": model.facts(), "index": index.facts(), "evaluation": evaluation.evaluation}
        if config.publish is not None and run_id is not None:
            published = steps.do("publish", lambda: publish_bundle(config, split, store, run_id))
            lines.append(publish_text(published, config.published))
            facts["published"] = published.facts()
    return Outcome(facts, "\n".join(lines))


def _checked_log(config: Config) -> pl.DataFrame:
    """The log, checked against the catalogue before hours of extraction, and before the feature store forgets
    the items that a catalogue lacks because it was cut off."""
    table = read_log(config.interactions)
    if config.catalog is not None and config.interactions and not list_shards(config.catalog.items):
        clean(table, read_catalog(config.catalog).item_ids, config.interactions)
    return table


def publish(config: Config, force: bool = False) -> Outcome:
    """Publish the run folder as it is; `force` publishes also what the gate refuses, or was rolled back."""
    if config.publish is None:
        raise ConfigError("nothing to publish: the config has no [publish] section; an empty one will do")
    with locked(config.output):
        store = open_store(config)
        report = publish_bundle(config, split_log(config, store), store, force=force)
    return Outcome(report.facts(), publish_text(report, config.published))


def make_encoder(config: Config, processes: Team | None = None) -> Outcome:
    """The encoder of [align] or [finetune]."""
    with locked(config.encoder.parent):  # which it may share with other runs
        report = _make(config, processes)
    made = "pre-trained" if config.align is not None else "fine-tuned"
    return Outcome({"encoder": report.facts()}, encoder_text(made, report, config.encoder))


def _make_together(config: Config, device: str) -> Outcome | None:
    """`make_encoder` by all processes of torchrun; only the first has an outcome."""
    with team(device) as processes:
        if processes.leads:
            return make_encoder(config, processes)
        _make(config, processes)
    return None


def _make(config: Config, processes: Team | None) -> EncoderReport:
    assert config.catalog is not None  # checked with the config
    if config.align is not None:
        report = align_stage(config.catalog, config.align, config.extract, config.encoder, processes)
    else:
        assert config.finetune is not None
        report = finetune_stage(config.catalog, config.finetune, config.extract, config.encoder, processes)
    check_failures(report, config.extract, config.encoder)
    return report


def open_store(config: Config) -> FeatureStore | None:
    """The feature store that the config asks for; None where it asks for none."""
    if config.catalog is None and not config.extract.foreign:
        return None
    store = FeatureStore(config.features)
    check_made_for(store, config.extract)
    return store


def train_and_index(
    config: Config,
    store: FeatureStore | None,
    dataset: Dataset,
    processes: Team | None = None,
    steps: Steps | None = None,
) -> tuple[TrainReport, IndexReport]:
    steps = steps or Steps()
    remove_stale_temporaries(config.output)
    report = steps.do("model", lambda: _train(config, store, dataset, processes))
    if config.train.encoder == "end-to-end":
        steps.do("features-end-to-end", lambda: bring_up_to_date(trained_config(config)))
    places = config.output / "model", config.output / "index"
    return report, steps.do("index", lambda: build(*places, config.index))


def item_source(config: Config) -> ItemSource | None:
    """The items that an encoder is trained on."""
    return None if config.catalog is None else ItemSource(config.catalog, config.extract)


def trained_config(config: Config) -> Config:
    """`config` on the features of the encoder that was trained with its model; FileNotFoundError before."""
    trained = {
        "extract": trained_extract(config.extract, config.output / "model"),
        "train": config.train.model_copy(update={"encoder": "frozen"}),
        "run": config.run.model_copy(update={"features": str(config.trained_features)}),
    }
    return config.model_copy(update=trained)


def _train(
    config: Config, store: FeatureStore | None, dataset: Dataset, processes: Team | None
) -> TrainReport:
    folder, source = config.output / "model", item_source(config)
    return train_stage(dataset, store, config.train, folder, processes, config.fusion, source)


def measure(config: Config, store: FeatureStore | None, dataset: Dataset) -> EvaluateReport:
    return evaluate_stage(dataset, store, config.train, config.index, config.evaluate, config.output)
