"""The `[interactions]`, `[train]`, `[index]` and `[evaluate]` sections. Light to import: no torch here."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

Seed = Annotated[int, Field(ge=0)]
METRIC = re.compile(r"^(recall|ndcg|precision|map|mrr|hit)@([1-9][0-9]*)$")


class InteractionsConfig(BaseModel, frozen=True, extra="forbid"):
    """`[interactions]`: the log, how it is cleaned and how it is split."""

    path: Annotated[str, Field(min_length=1)]  # CSV, JSONL or Parquet: a file, a folder, a glob or a URI
    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = None  # default: "timestamp" where the log has that column
    rating: str | None = None  # default: "rating" where the log has that column
    split_column: str = "split"  # read when split = "column": train, validation (or valid, val), test
    split: Literal["ratio", "temporal", "leave-one-out", "column"] = "ratio"
    ratios: tuple[float, float, float] = (0.8, 0.1, 0.1)  # train, validation, test
    min_rating: float | None = None  # keep interactions rated at least this
    k_core: Annotated[int, Field(ge=0)] = 0  # drop users and items with fewer interactions, repeatedly
    cold_items: Annotated[float, Field(ge=0, lt=1)] = (
        0.0  # share of items whose interactions are all held out
    )
    drop_unknown: bool = False  # drop interactions with items that are not in the catalogue
    seed: Seed = 0  # of the random parts: cold items, ties and logs without timestamps

    @field_validator("ratios")
    @classmethod
    def _sum_to_one(cls, ratios: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6 or ratios[0] <= 0:
            raise ValueError(
                f"ratios must be three shares that sum to 1 with train above 0, got {list(ratios)}"
            )
        return ratios


class MaskConfig(BaseModel, frozen=True, extra="forbid"):
    """`[train.mask]`: one modality taken away from a share of the items, always the same ones."""

    modality: str  # "image" stands for all views image.*, "text" for text.*; a foreign view by its own name
    share: Annotated[float, Field(ge=0, le=1)] = 0.5  # rho: floor(share * n_items) items lose it
    rows: Literal["absent", "zero"] = (
        "absent"  # what their rows become; zero: data, as AlignRec's code has it
    )
    replace: dict[str, str] = {}  # view -> view to take the rows from instead: encoded without the modality
    seed: Seed = 0


class EndToEndConfig(BaseModel, frozen=True, extra="forbid"):
    """`[train.end_to_end]`: how the encoder is trained, where `encoder = "end-to-end"`."""

    method: Literal["full", "lora", "last-layers"] = "full"  # which of its parameters
    last_layers: Annotated[int, Field(ge=1)] = 2  # of each tower, of last-layers
    lora_rank: Annotated[int, Field(ge=1)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5  # of AdamW
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.9  # factor of the learning rate from layer to layer
    weight_decay: Annotated[float, Field(ge=0)] = 0.01  # of matrices
    clip: Annotated[float, Field(gt=0)] = 1.0  # norm of the encoder's gradient at most
    warmup_epochs: Annotated[int, Field(ge=0)] = 1  # at the start, in which the encoder is left as it is
    encode: Literal["all", "positives"] = "all"  # items of a batch whose rows are fresh and have a gradient
    micro_batch: Annotated[int, Field(ge=1)] = 32  # items encoded together: memory, not the result
    refresh_every: Annotated[int, Field(ge=1)] = 1  # epochs between two encodings of the whole catalogue
    itc_weight: Annotated[float, Field(ge=0)] = 0.0  # gamma, of image against text within a batch
    itc_temperature: Annotated[float, Field(gt=0)] = 0.07
    sample: Annotated[int, Field(ge=1)] = 256  # items that staleness, drift and retrieval are measured on
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, with float32 parameters


class TrainConfig(BaseModel, frozen=True, extra="allow"):
    """`[train]`: the model and the loop. Options of a model stand in its own table, `[train.freedom]`."""

    model: str = "freedom"
    views: tuple[str, ...] | None = None  # feature views to train on; default: every view of the store
    encoder: Literal["frozen", "end-to-end"] = (
        "frozen"  # or trained with the model, from features as they are
    )
    end_to_end: EndToEndConfig = EndToEndConfig()
    mask: MaskConfig | None = None  # train without a modality of some items
    dim: Annotated[int, Field(ge=1)] = 64  # size of the learned embeddings
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    batch_size: Annotated[int, Field(ge=1)] = 2048
    epochs: Annotated[int, Field(ge=1)] = 1000
    patience: Annotated[int, Field(ge=1)] = 20  # evaluations without improvement before stopping
    eval_every: Annotated[int, Field(ge=1)] = 1  # epochs between validations
    metric: str = "recall@20"  # on validation; decides the epoch that is kept
    seed: Seed = 0
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"  # of frozen features; all else is float32
    capture: bool = False  # record the step on a CUDA device as a CUDA graph
    checkpoint_every: Annotated[float, Field(ge=0)] = 30.0  # seconds between checkpoints, at epoch ends

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        if not METRIC.match(metric):
            raise ValueError(
                f"metric '{metric}' is not NAME@K with NAME one of recall, ndcg, precision, map, mrr, hit"
            )
        return metric

    @model_validator(mode="after")
    def _tables_only(self) -> TrainConfig:
        for key, value in (self.model_extra or {}).items():
            if not isinstance(value, dict):
                raise ValueError(f"unknown key '{key}'")
        return self

    def options(self, model: str | None = None) -> dict[str, Any]:
        """The raw `[train.<model>]` table of `model` (default: the chosen one); the model validates it."""
        return dict((self.model_extra or {}).get(model or self.model, {}))


class FusionConfig(BaseModel, frozen=True, extra="forbid"):
    """`[fusion]`: several views of an item joined into one, before the model."""

    kind: Literal["none", "similarity", "self-attention", "gated", "mlp", "concat", "mean", "sum"] = "none"
    views: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # default: all that are no image's
    image: str | None = None  # view that the others are compared with; default: the store's first image view
    temperature: Annotated[float, Field(gt=0)] = 0.2  # tau, of similarity
    attention_dim: Annotated[int, Field(ge=1)] = 64  # of queries and keys of self-attention
    width: Annotated[int, Field(ge=1)] | None = None  # of the result, by a learned map; default: the kind's
    as_released: bool = False  # as in CLIPER's code; docs/cliper.md
    memory_mb: Annotated[int, Field(ge=1)] = 256  # budget of a block

    def settings(self) -> dict[str, Any]:
        """What decides on the result: unset keys and those that the kind does not read are left out."""
        unread = {
            "temperature": self.kind != "similarity",
            "attention_dim": self.kind != "self-attention",
            "image": self.kind not in ("similarity", "self-attention", "gated"),
            "memory_mb": True,
        }
        return self.model_dump(mode="json", exclude={key for key, skip in unread.items() if skip})


class IndexConfig(BaseModel, frozen=True, extra="forbid"):
    """`[index]`: the FAISS index over item vectors (inner product)."""

    kind: Literal["flat", "hnsw", "ivf-flat", "ivf-pq"] = "flat"
    hnsw_m: Annotated[int, Field(ge=4)] = 32
    ef_construction: Annotated[int, Field(ge=8)] = 200
    ef_search: Annotated[int, Field(ge=8)] = 128
    n_lists: Annotated[int, Field(ge=1)] | None = None  # default: 4 sqrt(n_items), at most n_items / 39
    n_probe: Annotated[int, Field(ge=1)] = 16
    pq_bytes: Annotated[int, Field(ge=1)] = 16  # bytes per vector
    device: str = "auto"
    seed: Seed = 0


class FeatureConfig(BaseModel, frozen=True, extra="forbid"):
    """`[evaluate.features]`: how features are judged before a recommender is trained, and what they must
    reach."""

    views: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # default: all views of the store
    split: Literal["validation", "test", "validation_cold", "test_cold"] = "validation"
    k: Annotated[tuple[int, ...], Field(min_length=1)] = (10, 20)  # cut-offs of recall and ndcg
    last: Annotated[int, Field(ge=1)] = 5  # interactions that the zero-shot profile of late history is from
    neighbours: Annotated[tuple[int, ...], Field(min_length=1)] = (10, 20, 50)  # k of item-CF
    occurrences: Annotated[int, Field(ge=1)] = 10  # k of hubness and of the agreement of views
    users: Annotated[int, Field(ge=1)] = 20_000  # a random sample of at most so many is evaluated
    mask_share: Annotated[float, Field(ge=0, le=1)] = (
        0.5  # share of items that lose a modality; 0: no such test
    )
    mask_rows: Literal["absent", "zero"] = "absent"
    mask_replace: dict[str, dict[str, str]] = {}  # modality -> replace of [train.mask]
    min_zero_shot: dict[str, float] = {}  # view, or "all views" -> least recall at the largest k; else exit 6
    min_item_cf: dict[str, float] = {}  # the same of item-CF, at its best k
    min_effective_rank: float | None = None  # of every judged view
    max_mean_cosine: float | None = None
    max_hubness: float | None = None

    @field_validator("k", "neighbours")
    @classmethod
    def _positive(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if min(values) < 1:
            raise ValueError(f"expected numbers of at least 1, got {list(values)}")
        return tuple(sorted(set(values)))

    @property
    def has_gate(self) -> bool:
        """Whether the features decide on the job's exit code."""
        limits = self.min_effective_rank, self.max_mean_cosine, self.max_hubness
        return bool(self.min_zero_shot or self.min_item_cf) or any(limit is not None for limit in limits)


class EvaluateConfig(BaseModel, frozen=True, extra="forbid"):
    """`[evaluate]`: cut-offs, masking, intervals and the memory that scoring may take."""

    k: tuple[int, ...] = (5, 10, 20, 50)
    mask: Literal["train", "train+validation"] = "train"  # what a test list may not contain
    bootstrap: Annotated[int, Field(ge=0)] = 1000  # resamples of users for the 95 % intervals; 0: none
    memory_mb: Annotated[int, Field(ge=1)] = 512  # budget of one block of scores
    # Closed-form models, fitted on the same split and judged beside the model.
    baselines: tuple[Literal["popularity", "itemknn", "ease"], ...] = ("popularity",)
    diversity_view: str | None = None  # feature view that intra-list diversity is measured on
    features: FeatureConfig = FeatureConfig()
    seed: Seed = 0

    @field_validator("k")
    @classmethod
    def _cutoffs(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
        if not cutoffs or min(cutoffs) < 1:
            raise ValueError(f"k must list cut-offs of at least 1, got {list(cutoffs)}")
        return tuple(sorted(set(cutoffs)))
