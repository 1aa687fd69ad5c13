"""The `[finetune]` section, checked and frozen. Light to import: no torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from ..encoders.names import reads_images, reads_texts
from ..pretraining.config import Count, Ratio, Seed, Share, Weight


class LossWeights(BaseModel, frozen=True, extra="forbid"):
    """`[finetune.objectives]`: the weight of each loss; 0 leaves it out. The last two are of a VLMo alone."""

    contrastive: Weight = 1.0  # which text belongs to which image, each encoded by itself
    matching: Weight = 1.0  # whether an image and a text, read together, belong to each other
    mlm: Weight = 0.25  # hidden words of a text that is read with its image

    @model_validator(mode="after")
    def _at_least_one(self) -> LossWeights:
        if not any((self.contrastive, self.matching, self.mlm)):
            raise ValueError("all weights are 0, so there is nothing to learn; set one of them above 0")
        return self


class FinetuneConfig(BaseModel, frozen=True, extra="forbid"):
    """`[finetune]`: the encoder, what of it is trained, and how."""

    start: Annotated[str, Field(min_length=1)] = "tiny"  # an encoder, as in extract.encoder
    text_start: Annotated[str, Field(min_length=1)] | None = None  # of texts, where start is of images alone
    head_dim: Count = 128  # of two encoders: width of the space where they are contrasted
    method: Literal["full", "lora", "last-layers"] = "full"
    last_layers: Count = 2  # of last-layers: how many of each tower, besides what comes after them
    lora_rank: Count = 8  # of lora
    text: str | None = None  # template over the catalogue's columns; default: extract.joint, or all of text
    context_length: Annotated[int, Field(ge=3)] | None = None  # tokens of a text, special ones included
    image_size: Count | None = None  # of a BEiT-3, VLMo or timm model: side in pixels
    objectives: LossWeights = LossWeights()
    text_mask: Ratio = 0.15  # share of words hidden for mlm
    crop: Share = 0.0  # the largest share of a picture that a random crop takes away in training
    validation: Ratio = 0.1  # share of pairs that are measured on after every epoch
    held_out: Ratio = 0.1  # share of pairs that are measured on before and after, and decide nothing
    epochs: Count = 10
    batch_size: Annotated[int, Field(ge=2)] = 128  # pairs of one step, over all processes; all are contrasted
    micro_batch: Count | None = None  # pairs in memory at once; default: all that a process has of a batch
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    warmup: Share = 0.1  # share of steps with a rising learning rate; after them, half a cosine down to 0
    weight_decay: Weight = 0.05  # of tables and matrices; biases, norms, contrastive temperatures have none
    layer_decay: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # of the learning rate, from a layer to the one below
    )
    clip: Annotated[float, Field(gt=0)] = 1.0  # norm of the gradient at most
    patience: Count = 3  # epochs without a better recall on validation before it stops; the best is kept
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast, with float32 parameters
    device: str = "auto"
    seed: Seed = 0
    checkpoint_every: Annotated[float, Field(ge=0)] = 60.0  # seconds

    @property
    def accumulate(self) -> int:
        """A batch is one piece, so that all of its pairs are contrasted; `micro_batch` saves the memory."""
        return 1

    def settings(self) -> dict[str, Any]:
        """What decides on the result; how it is computed is left out."""
        how = {"device", "checkpoint_every", "micro_batch", "start", "text_start"}
        one = {"head_dim"} if self.text_start is None else set()
        return self.model_dump(mode="json", exclude=how | one)

    @model_validator(mode="after")
    def _reads_both(self) -> FinetuneConfig:
        """One encoder of images and texts, or one of images alone and one of texts alone."""
        start, partner = self.start, self.text_start
        if not reads_images(start):
            raise ValueError(
                f"start '{start}' reads texts alone; make it text_start, beside an encoder of images such as "
                'start = "timm:vit_base_patch16_224"'
            )
        if partner is None and not reads_texts(start):
            raise ValueError(
                f"start '{start}' reads images alone; name an encoder for the texts, such as "
                'text_start = "sentence:sentence-transformers/all-MiniLM-L6-v2"'
            )
        if partner is not None and reads_texts(start):
            raise ValueError(f"start '{start}' reads images and texts; leave text_start out")
        if partner is not None and reads_images(partner):
            what = "images and texts; make it start, without text_start" if reads_texts(partner) else "images"
            raise ValueError(f"text_start '{partner}' reads {what}; expected an encoder of texts alone")
        return self

    @model_validator(mode="after")
    def _leaves_something(self) -> FinetuneConfig:
        if self.validation + self.held_out > 0.9:
            raise ValueError(
                f"validation {self.validation:g} and held_out {self.held_out:g} leave less than a tenth of "
                "the pairs to train on; lower them"
            )
        return self
