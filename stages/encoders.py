"""The encoders that an [extract] section names: one for images and texts, or one for each."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..features.config import ExtractConfig
from ..features.encoders.fingerprint import encoder_fingerprint
from ..features.encoders.names import reads_images
from ..features.errors import InputError
from ..features.store import MANIFEST, read_manifest

if TYPE_CHECKING:
    from ..features.encoders.base import ImageEncoder, JointEncoder, TextEncoder


def weights_request(config: ExtractConfig) -> dict[str, Any]:
    """Which weights the config asks for, by the key of the request that a store keeps."""
    how = config.precision, config.context_length, config.normalise
    request = {"weights": encoder_fingerprint(config.encoder, *how, config.image_size)}
    if config.runtime != "torch":
        request["weights"]["runtime"] = config.runtime
    if config.text_encoder is not None:
        request["text_weights"] = encoder_fingerprint(config.text_encoder, *how)
    return request


class Encoders:
    """Each is loaded when it is first asked for: a store that is up to date costs no model."""

    def __init__(self, config: ExtractConfig, folder: Path) -> None:
        self._config, self._folder = config, folder

    @cached_property
    def images(self) -> ImageEncoder:
        if self._config.runtime == "torch":
            return self._torch_images
        from ..features.encoders.openvino import OpenVinoImages

        return OpenVinoImages(self._torch_images, self._config.precision)

    @cached_property
    def _torch_images(self) -> Any:
        from ..features.encoders.registry import load_image_encoder

        config = self._config
        return load_image_encoder(config.encoder, *self._how, config.image_size)

    @cached_property
    def texts(self) -> TextEncoder:
        from ..features.encoders.base import Encoder
        from ..features.encoders.registry import load_text_encoder

        config = self._config
        if (
            not config.texts_apart
            and reads_images(config.encoder)
            and isinstance(self._torch_images, Encoder)
        ):
            return self._torch_images
        return load_text_encoder(config.text_encoder or config.encoder, *self._how)

    @property
    def joint(self) -> JointEncoder:
        """The encoder of images, where it can read image and text in one pass; else InputError."""
        from ..features.encoders.base import JointEncoder

        if not isinstance(self._torch_images, JointEncoder):
            raise InputError(
                f"extract.joint: '{self._config.encoder}' reads images and texts apart; leave the key out, "
                "or take an encoder that reads both in one pass: beit3:path/to/checkpoint.pth or "
                "vlmo:path/to/checkpoint.pt"
            )
        return self._torch_images

    def identities(self, images: bool, texts: bool, joint: bool) -> dict[str, dict[str, Any]]:
        """Of those that are used: `encoder`, which reads the texts too unless there is a `text_encoder`.

        Taken from the store in the folder when that was made with the same weights.
        """
        config, found = self._config, {}
        if images or joint or not config.texts_apart:
            found["encoder"] = self._stored("encoder", "weights")
            if found["encoder"] is None:
                reader = self.joint if joint else self.images if reads_images(config.encoder) else self.texts
                found["encoder"] = reader.identity
        if texts and config.texts_apart:
            found["text_encoder"] = self._stored("text_encoder", "text_weights") or self.texts.identity
        return found

    def _stored(self, encoder: str, weights: str) -> dict[str, Any] | None:
        if not (self._folder / MANIFEST).is_file():
            return None
        manifest = read_manifest(self._folder)
        if manifest["stats"]["request"].get(weights) != weights_request(self._config)[weights]:
            return None
        return manifest["space"].get(encoder)

    @property
    def _how(self) -> tuple[str, str, int | None, bool]:
        config = self._config
        return config.precision, config.device, config.context_length, config.normalise
