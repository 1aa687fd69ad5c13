"""Sizes of a VLMo."""

from __future__ import annotations

from dataclasses import dataclass

PUBLISHED_VOCABULARY = 30_522
PUBLISHED_TEXT = 40  # tokens
PUBLISHED_WINDOW = 196  # tokens, of the text-only pre-training before


@dataclass(frozen=True, slots=True)
class VlmoConfig:
    """Sizes of a VLMo; the defaults are those of the base model with all heads of its pre-training."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072  # width inside the feed-forward experts
    vl_start: int = 10  # the first layer with an expert for both modalities together
    vocabulary: int = PUBLISHED_VOCABULARY
    image_size: int = 224  # side of the square image, in pixels
    patch_size: int = 16
    max_text: int = PUBLISHED_TEXT  # tokens of the longest text, special ones included
    relative: bool = True  # relative position biases; otherwise absolute positions
    text_window: int = PUBLISHED_WINDOW  # texts of up to so many tokens have rows in the table of biases
    layer_scale: bool = True
    itc_heads: bool = True  # itc_text_proj, itc_image_proj, logit_scale
    vl_itc_heads: bool = True  # itc_vl_text_proj, itc_vl_image_proj, logit_vl_scale
    itm_head: bool = True  # pooled joint state -> mismatched, matched
    mlm_head: bool = True  # text states -> vocabulary

    def __post_init__(self) -> None:
        sizes = (self.width, self.layers, self.heads, self.hidden, self.vocabulary, self.patch_size)
        if min(sizes) < 1 or not 0 <= self.vl_start <= self.layers:
            raise ValueError(f"sizes must be at least 1 and vl_start one of the layers, got {self}")
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be divided among {self.heads} heads")
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ValueError(
                f"an image of {self.image_size} pixels has no whole {self.patch_size}-pixel patches"
            )
        if self.max_text < 2 or (self.relative and self.max_text > self.text_window):
            raise ValueError(
                f"max_text is {self.max_text}; expected 2 to text_window, which is {self.text_window}"
            )

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def image_tokens(self) -> int:
        """Tokens of an image: the class token and the patches. In a joint pass they come after the text."""
        return 1 + self.grid**2
