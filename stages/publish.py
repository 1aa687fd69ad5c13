"""Writing a bundle: all that a reader needs, in a folder that is complete or absent."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ..features.catalog import read_catalog
from ..features.config import CatalogConfig
from ..features.errors import InputError
from ..features.files import digest_json, file_sha256, fresh_folder, write_json
from ..features.manifest import MANIFEST, sealed
from ..features.store import FeatureStore
from ..features.tables import write_parquet
from ..features.versions import library_versions
from ..recsys.cleaning import used_columns
from ..recsys.config import InteractionsConfig
from ..recsys.interactions import Dataset
from .bundle import Bundle, read_bundle
from .dataset import digest_dataset, digest_store
from .feature_sample import FeatureSample, sample_features, write_sample
from .lineage import read_lineage
from .model_card import model_card
from .published import ACCOUNT, CATALOG, PROBE, SCHEMA, SEEN

CODE_VERSION = 1  # raise it when the same run would give another bundle
CARD = "README.md"
_BLOCK = 65_536  # rows that are digested at a time
_LIBRARIES = ("mmrec", "faiss-cpu", "faiss-gpu", "numpy", "polars", "pyarrow", "torch")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished run as it would be published."""

    run: Path  # its folder
    model: Bundle
    evaluation: dict[str, Any]
    probe: pl.DataFrame  # user_id, item_id
    seen: pl.DataFrame  # user_id, item_id: all that the model's users had
    catalog: pl.DataFrame | None  # item_id and the catalogue's fields, in the order of the model's items
    features: FeatureSample | None
    manifest: Path | None  # of the feature store
    lineage: dict[str, str]

    @property
    def counts(self) -> dict[str, int]:
        return {
            "items": len(self.model.item_ids),
            "users": len(self.model.user_ids),
            "interactions": len(self.seen),
        }

    @property
    def tested(self) -> dict[str, Any]:
        """The metrics of the test split."""
        return self.evaluation["splits"].get("test", {}).get("metrics", {})


def gather(
    run: Path,
    dataset: Dataset,
    log: pl.DataFrame,
    probe: pl.DataFrame,
    interactions: InteractionsConfig,
    catalog: CatalogConfig | None,
    store: FeatureStore | None,
) -> Candidate:
    """The run in `run`, checked to be finished and of this data; `log` holds the pairs of the probe too."""
    model = read_bundle(run / "model")
    lineage = {
        "interactions": model.config["lineage"]["interactions"],
        "vectors": model.config["vectors"],
        **_finished(run, model),
        "features": "none" if store is None else digest_store(store),
    }
    if lineage["interactions"] != digest_dataset(dataset):
        raise InputError(f"{run / 'model'} is of other data than the config names; use `mmrec run` first")
    seen = seen_pairs(log, model.user_ids, model.item_ids, interactions)
    fields = None if catalog is None else catalog_fields(catalog, model.item_ids)
    lineage |= {
        "seen": _digest(seen),
        "catalog": "none" if fields is None else _digest(fields),
        "probe": _digest(probe),
        "code": f"publish/{CODE_VERSION}",
    }
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    sample = None if store is None else sample_features(store, probe["item_id"])
    manifest = None if store is None else store.folder / MANIFEST
    return Candidate(run, model, evaluation, probe, seen, fields, sample, manifest, lineage)


def write_published(folder: Path, candidate: Candidate, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the bundle `folder`, which is there as a whole or not at all; returns its account."""
    with fresh_folder(folder) as fresh:
        for part in ("model", "index"):
            shutil.copytree(candidate.run / part, fresh / part)
        shutil.copyfile(candidate.run / "evaluation.json", fresh / "evaluation.json")
        if candidate.features is not None and candidate.manifest is not None:
            (fresh / "features").mkdir()
            shutil.copyfile(candidate.manifest, fresh / "features" / MANIFEST)
            write_sample(fresh / "features", candidate.features)
        tables = {PROBE: candidate.probe, SEEN: candidate.seen, CATALOG: candidate.catalog}
        for name, table in tables.items():
            if table is not None:
                write_parquet(fresh / name, table)
        account = {
            "schema": SCHEMA,
            **facts,
            "model": candidate.model.config["model"],
            "dim": candidate.model.config["dim"],
            "counts": candidate.counts,
            "lineage": candidate.lineage,
            "libraries": library_versions(_LIBRARIES),
        }
        (fresh / CARD).write_text(model_card(account, candidate), encoding="utf-8")
        files = sorted(path for path in fresh.rglob("*") if path.is_file())
        account["files"] = {
            path.relative_to(fresh).as_posix(): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files
        }
        account = sealed(account)
        write_json(fresh / ACCOUNT, account)
    return account


def _finished(run: Path, model: Bundle) -> dict[str, str]:
    """The lineages of index and evaluation as digests; InputError where they are not of this model."""
    made = {
        "index": read_lineage(run / "index" / "index.json", "lineage"),
        "evaluation": read_lineage(run / "evaluation.json", "provenance", "lineage"),
    }
    for what, lineage in made.items():
        if lineage is None or lineage["vectors"] != model.config["vectors"]:
            raise InputError(f"{run}: the {what} is missing or of another model; use `mmrec run` first")
    return {what: digest_json(lineage) for what, lineage in made.items()}


def seen_pairs(
    log: pl.DataFrame, user_ids: pl.Series, item_ids: pl.Series, config: InteractionsConfig
) -> pl.DataFrame:
    """(user_id, item_id) of every row whose user and item the model knows, each pair once, in its order."""
    pairs = used_columns(log, config).select(pl.col("user", "item").cast(pl.String)).unique()
    for name, ids in (("user", user_ids), ("item", item_ids)):
        known = pl.DataFrame({name: ids.cast(pl.String), f"{name}_id": ids}).with_row_index(f"{name}_row")
        pairs = pairs.join(known, on=name, how="inner")
    return pairs.sort("user_row", "item_row").select("user_id", "item_id")


def catalog_fields(config: CatalogConfig, item_ids: pl.Series) -> pl.DataFrame:
    """The catalogue's texts and numbers for the model's items; null for items that have left it meanwhile."""
    catalog = read_catalog(config)
    plain = [
        name
        for name, dtype in catalog.fields.schema.items()
        if name != "item_id" and (dtype in (pl.String, pl.Categorical, pl.Enum) or _is_simple(dtype))
    ]
    table = catalog.fields.select(plain).with_columns(catalog.item_ids.cast(pl.String).alias("item_id"))
    items = pl.DataFrame({"item_id": item_ids.cast(pl.String)})
    joined = items.join(table, on="item_id", how="left", maintain_order="left")
    return joined.with_columns(item_ids.alias("item_id"))


def _is_simple(dtype: Any) -> bool:
    inner = dtype.inner if isinstance(dtype, pl.List) else dtype
    return inner.is_numeric() or inner in (pl.String, pl.Boolean) or inner.is_temporal()


def _digest(table: pl.DataFrame) -> str:
    """The same for the same names and rows in the same order."""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(table), _BLOCK):
        stream = io.BytesIO()
        part = table.slice(start, _BLOCK).rechunk()
        part.write_ipc_stream(stream, compat_level=pl.CompatLevel.oldest())
        digest.update(stream.getbuffer())
    return digest.hexdigest()
