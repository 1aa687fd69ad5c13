"""Training an encoder with the recommender: its items, the bank of its features, and what is left of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from ..features.config import CatalogConfig, ExtractConfig
from ..features.encoders.names import reads_images, reads_texts
from ..features.encoders.trainable import (
    Trainable,
    TrainableImages,
    TrainableTexts,
    Training,
    load_trainable,
    load_trainable_images,
    load_trainable_texts,
)
from ..features.files import fresh_folder, recover_folder, write_json
from ..features.store import FeatureStore
from ..recsys.config import TrainConfig
from ..recsys.end_to_end import EndToEnd
from ..recsys.errors import InputError
from ..recsys.feature_bank import FeatureBank
from ..recsys.models.base import TrainingData
from ..recsys.team import Team
from .item_encoder import ItemEncoder
from .item_inputs import read_item_inputs
from .lineage import file_sizes, read_lineage

ACCOUNT = "end-to-end.json"
FOLDERS = {"encoder": "encoder-end-to-end", "text_encoder": "text-encoder-end-to-end"}  # beside the model
PLACE = "{folder}"  # in a saved name: a run folder may be moved
SAMPLE = 64  # items whose stored vectors are compared with fresh ones
# of 1 - cosine of a stored row with a fresh one: float16 alone gives 1e-6, weights in bfloat16 up to 1e-3
TOLERANCES = {"fp32": 1e-4, "bf16": 1e-2}


@dataclass(frozen=True, slots=True)
class ItemSource:
    """Where the items come from and how their features were extracted."""

    catalog: CatalogConfig
    extract: ExtractConfig


def prepare(
    source: ItemSource,
    store: FeatureStore,
    item_ids: pl.Series,
    data: TrainingData,
    config: TrainConfig,
    team: Team,
) -> tuple[TrainingData, EndToEnd, Trained]:
    """`data` on a bank of the features in `store`, and the encoder that trains them.

    Raises InputError for features that the encoder does not give, or not as they are stored.
    """
    views = trained_views(source.extract, store, list(data.modalities))
    trained = Trained.load(source.extract, views, config, str(data.device))
    inputs = team.leader_first(
        lambda: read_item_inputs(source.catalog, source.extract, store, trained.images, trained.texts)
    )
    bank = FeatureBank({view: data.modalities[view] for view in views})
    encoder = ItemEncoder(trained.images, trained.texts, inputs, store.rows(item_ids), bank.present)
    check_fresh(encoder, bank, config, source.extract)
    end_to_end = EndToEnd(encoder, bank, config.end_to_end, config.seed, team)
    return replace(data, modalities=bank.joined(data.modalities)), end_to_end, trained


def trained_views(extract: ExtractConfig, store: FeatureStore, views: list[str]) -> list[str]:
    """Those of `views` whose vectors the encoder gives of an image or of a text; InputError without any."""
    joint = [view for view in views if view in extract.joint_views]
    if joint:
        raise InputError(
            f'train.encoder = "end-to-end" trains views of images and of texts, not {", ".join(joint)}; name '
            "the others in train.views"
        )
    foreign = store.manifest["space"].get("foreign", {})
    found = [view for view in views if view not in foreign]
    if not found:
        raise InputError(
            f'train.encoder = "end-to-end": all views of {store.folder} are foreign features, which no '
            'encoder of [extract] gives; set train.encoder = "frozen"'
        )
    return found


@dataclass(frozen=True, slots=True)
class Trained:
    """The encoders that are trained, by what they read; one that reads both is both."""

    images: TrainableImages | None
    texts: TrainableTexts | None
    apart: bool  # texts are read by an encoder of their own

    @staticmethod
    def load(extract: ExtractConfig, views: list[str], config: TrainConfig, device: str) -> Trained:
        asked = config.end_to_end
        training = Training(asked.method, asked.last_layers, asked.lora_rank, asked.precision, config.seed)
        how = training, device, extract.normalise, extract.context_length
        has_images = any(view.startswith("image.") for view in views)
        has_texts = any(view.startswith("text.") for view in views)
        name = extract.encoder
        if not extract.texts_apart and reads_images(name) and reads_texts(name):
            both = load_trainable(name, *how, extract.image_size)
            return Trained(both if has_images else None, both if has_texts else None, False)
        return Trained(
            load_trainable_images(name, *how, extract.image_size) if has_images else None,
            load_trainable_texts(extract.text_encoder or name, *how) if has_texts else None,
            extract.texts_apart,
        )

    def by_key(self) -> Iterator[tuple[str, Trainable]]:
        """The key of [extract] that names an encoder, and that encoder."""
        first = self.images or (None if self.apart else self.texts)
        if first is not None:
            yield "encoder", first
        if self.texts is not None and self.apart:
            yield "text_encoder", self.texts

    def save(self, model: Path, facts: Mapping[str, Any], lineage: Mapping[str, str]) -> None:
        """Write the encoders beside the bundle `model`; each folder is replaced as a whole."""
        for key, encoder in self.by_key():
            folder = model.with_name(FOLDERS[key])
            with fresh_folder(folder) as fresh:
                name = encoder.save(fresh).replace(str(fresh), PLACE)
                account = {"name": name, "files": file_sizes(fresh.iterdir()), **facts, "lineage": lineage}
                write_json(fresh / ACCOUNT, account)


@torch.no_grad()
def check_fresh(encoder: ItemEncoder, bank: FeatureBank, config: TrainConfig, extract: ExtractConfig) -> None:
    """InputError where the encoder does not give what the store holds: the bank would begin with rows of
    another space."""
    drawn = torch.randperm(bank.n_items, generator=torch.Generator().manual_seed(config.seed))
    rows = drawn[:SAMPLE].to(bank.device)
    precisions = {extract.precision, config.end_to_end.precision}
    tolerance = TOLERANCES["bf16" if "bf16" in precisions else "fp32"]
    vectors = [encoder.encode(part) for part in rows.split(config.end_to_end.micro_batch)]
    for view, table in bank.tables.items():
        held = bank.present[view][rows]
        fresh, stored = torch.cat([part[view] for part in vectors])[held].double(), table[rows][held].double()
        cosines = torch.nn.functional.cosine_similarity(fresh, stored, dim=1)
        lengths = fresh.norm(dim=1) / stored.norm(dim=1).clamp(min=1e-12)
        farthest = float((1 - cosines).max()) if len(cosines) else 0.0
        if farthest > tolerance or bool(((lengths - 1).abs() > 10 * tolerance).any()):
            raise InputError(
                f"'{view}': the stored vectors are not what the encoder gives: 1 - cosine is up to "
                f"{farthest:.2g}, expected at most {tolerance:g}. Has '{extract.encoder}' changed since? Run "
                "`mmrec extract` again"
            )


def saved_keys(extract: ExtractConfig, views: list[str]) -> list[str]:
    """The keys of [extract] whose encoders are trained for these views."""
    if not extract.texts_apart:
        return ["encoder"]
    kinds = {"image.": "encoder", "text.": "text_encoder"}
    return [key for prefix, key in kinds.items() if any(view.startswith(prefix) for view in views)]


def is_saved(model: Path, lineage: Mapping[str, str], keys: list[str]) -> bool:
    """Whether the encoders beside the bundle are whole and made from `lineage`."""
    for key in keys:
        folder = model.with_name(FOLDERS[key])
        recover_folder(folder)
        if read_lineage(folder / ACCOUNT, "lineage") != lineage:
            return False
    return True


def trained_extract(extract: ExtractConfig, model: Path) -> ExtractConfig:
    """`extract` with the encoders trained with the bundle `model`; FileNotFoundError without any."""
    lineage = read_lineage(model / "config.json", "lineage")
    # Where the two names are the same, the one that was trained reads the texts too.
    named: dict[str, str | None] = {} if extract.texts_apart else {"text_encoder": None}
    for key, name in FOLDERS.items():
        folder = model.with_name(name)
        if lineage is not None and read_lineage(folder / ACCOUNT, "lineage") == lineage:
            account = json.loads((folder / ACCOUNT).read_text(encoding="utf-8"))
            named[key] = account["name"].replace(PLACE, str(folder))
    if not any(named.values()):
        raise FileNotFoundError(
            f"{model.with_name(FOLDERS['encoder'])}: no encoder was trained with {model}; run `mmrec train`"
        )
    return extract.model_copy(update=named)
