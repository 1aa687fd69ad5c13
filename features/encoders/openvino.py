"""An encoder's image tower compiled by OpenVINO: an optional engine for CPUs, faster than torch on most."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..decoding.transform import ImageTransform
from ..errors import InputError

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
_EXAMPLES = 2  # a batch of one would let the conversion take the 1 for a constant


class _Traceable(Protocol):
    """What encoders of this package have beside the protocol: a pass of tensors, which can be traced."""

    dim: int
    transform: ImageTransform
    device: torch.device

    @property
    def identity(self) -> dict[str, Any]: ...
    def image_vectors(self, pixels: Tensor) -> Tensor: ...


class OpenVinoImages:
    """The images of `encoder` by OpenVINO; its texts stay torch's.

    OpenVINO computes in `precision`, whatever it is that `encoder` was loaded in. Raises InputError without
    the package, for an encoder on another device than the CPU, and for a model that cannot be converted.
    """

    def __init__(self, encoder: _Traceable, precision: str) -> None:
        try:
            openvino: Any = import_module("openvino")
        except ImportError as error:
            raise InputError(
                "extract.runtime = 'openvino' needs the package openvino: pip install 'mmrec[openvino]'"
            ) from error
        if encoder.device.type != "cpu":
            raise InputError(
                f"extract.runtime = 'openvino' runs on CPUs, but the device is {encoder.device}; set "
                'extract.device = "cpu", or runtime = "torch"'
            )
        self._encoder, self._precision, self._version = encoder, precision, openvino.__version__
        self.dim, self.transform = encoder.dim, encoder.transform
        side = encoder.transform.size
        example = torch.zeros(_EXAMPLES, 3, *side, dtype=torch.uint8)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's tracing, which the converter calls
                model = openvino.convert_model(_ImageTower(encoder), example_input=example)
        except Exception as error:  # the converter raises whatever the trace of a model makes it raise
            raise InputError(
                f"OpenVINO cannot convert this encoder ({type(error).__name__}); leave extract.runtime out"
            ) from error
        model.reshape([-1, 3, *side])
        options = {"INFERENCE_PRECISION_HINT": _PRECISIONS[precision], "PERFORMANCE_HINT": "THROUGHPUT"}
        options |= {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
        self._compiled = openvino.Core().compile_model(model, "CPU", options)

    @property
    def identity(self) -> dict[str, Any]:
        """The encoder's, with the engine and the precision that it computes in."""
        return {**self._encoder.identity, "precision": self._precision, "runtime": "openvino"}

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        if not len(pixels):
            return np.empty((0, self.dim), dtype=np.float32)
        return self._compiled(np.stack(pixels))[0].astype(np.float32)


class _ImageTower(nn.Module):
    """The encoder's pass as a module, which is what the converter takes."""

    def __init__(self, encoder: _Traceable) -> None:
        super().__init__()
        self._encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return self._encoder.image_vectors(pixels)
