"""The `[catalog]` and `[extract]` sections, checked and frozen. Light to import: no torch here."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, Field, field_validator, model_validator

from .decoding.boxes import Box
from .encoders.names import reads_images, reads_texts

LongText = Literal["mean", "length-weighted", "sum", "as-released", "truncate"]
PRESET_FIELDS = ("title", "brand", "category", "description")
JOINT_VIEWS = ("joint", "joint.image", "joint.text")


Scheme = Literal[
    "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory", "hdfs", "ftp", "sftp"
]
_UNCHECKED = ("hdfs", "ftp", "sftp")  # go where the URI says by libraries that check no address
_HOST = re.compile(r"(\*\.)?[\w.-]+|[0-9a-fA-F:]*:[0-9a-fA-F:.]*")  # or an IPv6 address


class ReadingConfig(BaseModel, frozen=True, extra="forbid"):
    """The keys of `[catalog]` that say how images are read, and from where they may come."""

    readers: Annotated[int, Field(ge=1, le=1024)] = 16  # images that are read at the same time
    schemes: tuple[Scheme, ...] = get_args(Scheme)[: -len(_UNCHECKED)]  # of URIs that may be read
    hosts: tuple[str, ...] = ()  # and their hosts or buckets: "cdn.example.com", "*.example.com"; none: all
    allow_private: bool = False  # addresses of this machine and its network
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0  # seconds of one attempt, in all
    retries: Annotated[int, Field(ge=0, le=20)] = 3  # attempts after a failure that may pass

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"'{host}': expected a host such as cdn.example.com, or *.example.com")
        return tuple(host.lower() for host in hosts)

    @model_validator(mode="after")
    def _unchecked_addresses_are_allowed(self) -> ReadingConfig:
        unchecked = [scheme for scheme in self.schemes if scheme in _UNCHECKED]
        if unchecked and not self.allow_private:
            raise ValueError(
                f"schemes: the addresses behind {' and '.join(unchecked)} cannot be checked; allow them with "
                "allow_private = true, or leave these out"
            )
        return self


class CatalogConfig(ReadingConfig, frozen=True, extra="forbid"):
    """`[catalog]`: where the items are and which columns matter."""

    items: Annotated[str, Field(min_length=1)]  # CSV, JSONL or Parquet: a file, a folder, a glob or a URI
    image_root: str | None = None  # relative image paths start here; default: the folder of `items`
    item_id: str = "item_id"
    image: str | None = None  # column of paths, URIs, bytes, or lists of them; null: no images


class ExtractConfig(BaseModel, frozen=True, extra="forbid"):
    """`[extract]`: the encoder, the views and how the batch job behaves."""

    # "tiny", "open_clip:ARCH/TAG", "open_clip:ARCH/path", "longclip:ARCH/path", "beit3:path" or "vlmo:path";
    # of images alone "timm:MODEL" or "timm:MODEL/path", of texts alone "sentence:NAME" or "sentence:path"
    encoder: str = "tiny"
    text_encoder: str | None = None  # reads the texts in place of `encoder`, into vectors of another space
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1"
    runtime: Literal["torch", "openvino"] = "torch"  # what computes the images on a CPU
    image_views: tuple[str, ...] = ("full",)  # "full", "center", "quadrants", or a name in `crops`
    crops: dict[str, tuple[Box, ...]] = {}  # name -> a box or several, which are averaged into one view
    image_pooling: Literal["mean", "first"] = "mean"  # over the images of one item
    views: Literal["cliper", "cliper-as-released"] | None = None  # ready-made text views, see docs/cliper.md
    view_fields: dict[str, str] = {}  # field of the ready-made views -> column, where the names differ
    text_views: dict[str, str] = {}  # view name -> template over the catalogue's columns
    joint: Annotated[str, Field(min_length=1)] | None = None  # text that is read together with the image
    joint_blanked: bool = False  # beside "joint", the views of either modality with the other one hidden
    context_length: Annotated[int, Field(ge=1)] | None = None  # stretches a CLIP's text positions; 248
    image_size: Annotated[int, Field(ge=1)] | None = None  # interpolates a BEiT-3's or VLMo's image positions
    long_text: LongText = "mean"  # pooling of context windows
    normalise: bool = True  # vectors of unit length; false keeps the encoder's own norms
    foreign: dict[str, str] = {}  # view name -> .npy of ready-made features, row = item
    exif_rotate: bool = True  # apply the EXIF orientation before any crop
    batch_size: Annotated[int, Field(ge=1)] = 256
    shard_rows: Annotated[int, Field(ge=1)] = 2048  # items per Parquet shard: the unit of work and of loss
    workers: Annotated[int, Field(ge=1)] = 2  # decoding processes
    actors: Annotated[int, Field(ge=1)] | None = None  # of `--engine ray`; one per GPU, or per two cores
    decode_seconds: Annotated[float, Field(gt=0)] = 30.0  # that decoding one picture may take ...
    decode_memory_mb: Annotated[int, Field(ge=64)] = 2048  # ... and MiB, beyond those of an idle process
    max_failures: Annotated[float, Field(ge=0, le=1)] = 0.02  # share of items; past it the job exits with 4
    min_similarity: dict[str, float] = {}  # text view -> least mean cosine with the image; below it, exit 6
    similarity_floor: float | None = None  # a text with a smaller cosine is below the floor ...
    max_below_floor: Annotated[float, Field(ge=0, le=1)] = 0.0  # ... as this share of each view may be
    max_mismatched: Annotated[float, Field(ge=0, le=1)] | None = None  # share of items; past it, exit 6
    max_image_pixels: Annotated[int, Field(ge=1)] = 100_000_000  # larger images are refused unread
    max_image_bytes: Annotated[int, Field(ge=1)] = 64 * 2**20

    @property
    def text_view_names(self) -> tuple[str, ...]:
        """Every text view that may come about; the ready-made ones that lack a column do not."""
        preset = (*PRESET_FIELDS, "global") if self.views else ()
        return (*preset, *self.text_views)

    @property
    def joint_views(self) -> tuple[str, ...]:
        """The views of image and text in one pass."""
        if self.joint is None:
            return ()
        return JOINT_VIEWS if self.joint_blanked else JOINT_VIEWS[:1]

    @property
    def texts_apart(self) -> bool:
        """Whether texts and images go to different encoders, so that their cosines mean nothing."""
        return self.text_encoder not in (None, self.encoder)

    @property
    def has_gate(self) -> bool:
        """Whether the similarity of texts and images decides on the job's exit code."""
        return bool(self.min_similarity) or (self.similarity_floor, self.max_mismatched) != (None, None)

    @model_validator(mode="after")
    def _encoders_read_what_they_are_given(self) -> ExtractConfig:
        if self.text_encoder is not None and not reads_texts(self.text_encoder):
            raise ValueError(f"text_encoder '{self.text_encoder}' reads images alone; make it the encoder")
        if self.text_encoder is not None and not reads_images(self.encoder):
            raise ValueError(f"encoder '{self.encoder}' reads texts alone, but there is a text_encoder too")
        if self.text_encoder is None and not reads_texts(self.encoder) and (self.text_views or self.views):
            raise ValueError(
                f"encoder '{self.encoder}' reads images alone; name one for the text views, such as "
                'text_encoder = "sentence:sentence-transformers/all-MiniLM-L6-v2"'
            )
        if self.texts_apart and self.has_gate:
            raise ValueError(
                "min_similarity, similarity_floor and max_mismatched compare texts with images, which takes "
                "one encoder for both; leave them or text_encoder out"
            )
        return self

    @field_validator("image_views")
    @classmethod
    def _unique(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(views)) != len(views):
            raise ValueError(f"image views must be unique, got {list(views)}")
        return views

    @field_validator("crops", mode="before")
    @classmethod
    def _single_box(cls, crops: object) -> object:
        if not isinstance(crops, dict):
            return crops
        return {name: (box,) if _is_box(box) else box for name, box in crops.items()}

    @model_validator(mode="after")
    def _foreign_names_are_free(self) -> ExtractConfig:
        taken = {"item_id", "content_hash"}
        taken |= {f"image.{view}" for view in self.image_views}
        taken |= {f"text.{view}" for view in self.text_view_names}
        taken |= set(self.joint_views)
        for view in self.foreign:
            if view in taken or view.startswith("similarity.") or not view:
                raise ValueError(f"foreign view '{view}' has the name of another column; rename it")
        return self

    @model_validator(mode="after")
    def _blanks_need_a_joint_view(self) -> ExtractConfig:
        if self.joint_blanked and self.joint is None:
            raise ValueError('joint_blanked is set, but joint is not; say which text: joint = "{title}"')
        return self

    @model_validator(mode="after")
    def _text_views_are_known(self) -> ExtractConfig:
        for view in self.text_views:
            if self.text_view_names.count(view) > 1:
                raise ValueError(f"text view '{view}' is one of views = \"{self.views}\"; rename yours")
        if self.view_fields and not self.views:
            raise ValueError("view_fields is set, but views is not; it names the columns of ready-made views")
        for field in self.view_fields:
            if field not in PRESET_FIELDS:
                raise ValueError(f"view_fields.{field}: not one of {', '.join(PRESET_FIELDS)}")
        for view in self.min_similarity:
            if view not in self.text_view_names:
                known = ", ".join(self.text_view_names) or "none"
                raise ValueError(f"min_similarity.{view}: no such text view; there are {known}")
        return self

    @model_validator(mode="after")
    def _known_views(self) -> ExtractConfig:
        known = {"full", "center", "quadrants", *self.crops}
        for view in self.image_views:
            if view not in known:
                raise ValueError(
                    f"image view '{view}' is not one of {sorted(known)}; define it in extract.crops"
                )
        for name, boxes in self.crops.items():
            for left, top, right, bottom in boxes:
                if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                    raise ValueError(
                        f"crop '{name}' is {[left, top, right, bottom]}; expected fractions between 0 and 1 "
                        "with left < right and top < bottom"
                    )
        return self


def _is_box(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and not isinstance(value[0], list | tuple)
