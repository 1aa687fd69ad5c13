"""The `[align]` section, checked and frozen. Light to import: no torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

SCRATCH = "scratch"
PRESETS: dict[str, dict[str, int]] = {  # sizes of a model from scratch; large and base are BEiT-3's
    "tiny": {
        "width": 128, "layers": 4, "heads": 4, "image_size": 64, "patch_size": 8,
        "vocabulary": 4000, "context_length": 64,
    },
    "base": {
        "width": 768, "layers": 12, "heads": 12, "image_size": 224, "patch_size": 16,
        "vocabulary": 32_000, "context_length": 128,
    },
    "large": {
        "width": 1024, "layers": 24, "heads": 16, "image_size": 224, "patch_size": 16,
        "vocabulary": 32_000, "context_length": 128,
    },
}  # fmt: skip
_OF_SCRATCH = ("width", "layers", "heads", "patch_size", "vocabulary")

Share = Annotated[float, Field(ge=0, lt=1)]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class ObjectivesConfig(BaseModel, frozen=True, extra="forbid"):
    """`[align.objectives]`: the weight of each loss; 0 leaves it out."""

    mlm: Weight = 1.0  # hidden tokens of the text
    mim: Weight = 1.0  # hidden patches of the image
    contrastive: Weight = 1.0  # image and text of one item, each encoded by itself
    joint: Weight = 1.0  # the two together, and either by itself

    @model_validator(mode="after")
    def _at_least_one(self) -> ObjectivesConfig:
        if self.joint and not self.contrastive:
            raise ValueError("joint is learned from what contrastive learns; set it to 0 too")
        if not any((self.mlm, self.mim, self.contrastive)):
            raise ValueError("all weights are 0, so there is nothing to learn; set one of them above 0")
        return self


class AlignConfig(BaseModel, frozen=True, extra="forbid"):
    """`[align]`: what the encoder starts from, what it predicts, and how it is trained."""

    start: Annotated[str, Field(min_length=1)] = SCRATCH  # or a BEiT-3: a checkpoint or its folder
    size: Literal["tiny", "base", "large"] = "tiny"  # from scratch; the keys below replace sizes of it
    width: Count | None = None
    layers: Count | None = None
    heads: Count | None = None
    patch_size: Count | None = None
    vocabulary: Annotated[int, Field(ge=8)] | None = None  # ids at most, special ones included
    image_size: Count | None = None  # side in pixels; of a checkpoint, its positions are interpolated
    context_length: Annotated[int, Field(ge=3)] | None = None  # tokens of a text, special ones included
    text: str | None = None  # template over the catalogue's columns; default: all text columns in their order
    objectives: ObjectivesConfig = ObjectivesConfig()
    mim_target: Literal["pixels", "teacher", "codes"] = "pixels"
    teacher: str | None = None  # encoder whose vector of the whole image is predicted
    codes: str | None = None  # .npy (items, patches), or Parquet with item_id and a list column codes
    visual_codes: Count = 8192  # how many codes there are
    patch_mask: Ratio = 0.4  # share of patches hidden in the pass of mim
    text_mask: Ratio = 0.5  # share of tokens hidden in the pass of mlm, where the image is shown
    text_mask_unpaired: Ratio = 0.15  # the same where there is no image
    mask_both: bool = False  # one pass with patches and tokens hidden, in place of one for each
    mask_contrast: bool = False  # hide as much in the passes of contrastive: harder to learn by heart
    blank: Share = 0.1  # share of items whose other modality is hidden altogether, drawn in every pass
    held_out: Ratio = 0.1  # share of items that are not trained on, to measure on
    epochs: Count = 20
    batch_size: Count = 32  # items of one step, over all processes
    accumulate: Count = 1  # pieces that a batch is worked through in; pairs are contrasted within a piece
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Share = 0.1  # share of steps with a rising learning rate; after them, half a cosine down to 0
    weight_decay: Weight = 0.05  # of the matrices of linear and convolutional layers
    clip: Annotated[float, Field(gt=0)] = 1.0  # norm of the gradient at most
    patience: Count | None = None  # epochs without a lower held-out loss before it stops; the best is kept
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, with float32 parameters
    gradient_checkpointing: bool = False  # compute each layer again in the backward pass: less memory
    device: str = "auto"
    seed: Seed = 0
    checkpoint_every: Annotated[float, Field(ge=0)] = 60.0  # seconds

    @property
    def from_scratch(self) -> bool:
        return self.start == SCRATCH

    def sizes(self) -> dict[str, int]:
        """The sizes of a model from scratch: the preset's, but for those that are set."""
        preset = PRESETS[self.size]
        return {key: getattr(self, key) or preset[key] for key in preset}

    def settings(self) -> dict[str, Any]:
        """What decides on the result; how it is computed is left out."""
        return self.model_dump(
            mode="json",
            exclude={"device", "checkpoint_every", "gradient_checkpointing", "start", "teacher", "codes"},
        )

    @model_validator(mode="after")
    def _sizes_of_scratch(self) -> AlignConfig:
        if self.from_scratch:
            sizes = self.sizes()
            if sizes["width"] % sizes["heads"]:
                raise ValueError(
                    f"width {sizes['width']} cannot be divided among {sizes['heads']} heads; set both"
                )
            if sizes["image_size"] % sizes["patch_size"] or sizes["image_size"] < 2 * sizes["patch_size"]:
                raise ValueError(
                    f"image_size {sizes['image_size']} is not a multiple (2 or more) of patch_size "
                    f"{sizes['patch_size']}"
                )
            return self
        given = [key for key in _OF_SCRATCH if getattr(self, key) is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: the checkpoint in start has its own; leave them out")
        return self

    @model_validator(mode="after")
    def _target_is_given(self) -> AlignConfig:
        for target in ("teacher", "codes"):
            asked, given = self.mim_target == target, getattr(self, target) is not None
            if asked and not given:
                what = {"teacher": "an encoder, as in extract.encoder", "codes": "a .npy or Parquet file"}
                raise ValueError(f'mim_target is "{target}", but {target} is not set; name {what[target]}')
            if given and not asked:
                raise ValueError(f'{target} is set, but mim_target is "{self.mim_target}"')
        return self

    @model_validator(mode="after")
    def _pieces_have_pairs(self) -> AlignConfig:
        if self.objectives.contrastive and self.batch_size < 2 * self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} in {self.accumulate} pieces leaves no two items to contrast; "
                "raise batch_size, or set objectives.contrastive to 0"
            )
        return self
