import numpy as np
import pytest
from torch import device

from mmrec.features.config import ExtractConfig
from mmrec.features.encoders.registry import load_encoder
from mmrec.features.errors import InputError
from mmrec.stages.encoders import Encoders, weights_request

pytest.importorskip("openvino")


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 3e-3)])
def test_images_by_openvino_have_the_vectors_of_torch(tmp_path, precision, tolerance) -> None:
    exact = load_encoder("tiny")
    images = Encoders(ExtractConfig(precision=precision, runtime="openvino"), tmp_path).images
    rng = np.random.default_rng(0)
    for n in (1, 5):  # the batch is not a constant of the compiled model
        pixels = list(rng.integers(0, 256, (n, 3, *exact.transform.size), np.uint8))
        vectors = images.encode_images(pixels)
        assert vectors.shape == (n, exact.dim) and vectors.dtype == np.float32
        assert 1 - (vectors * exact.encode_images(pixels)).sum(axis=1) == pytest.approx(0, abs=tolerance)
    assert images.encode_images([]).shape == (0, exact.dim)


def test_a_store_of_one_engine_is_not_one_of_the_other(tmp_path) -> None:
    torch, openvino = ExtractConfig(), ExtractConfig(runtime="openvino")
    assert weights_request(torch) != weights_request(openvino)
    assert Encoders(torch, tmp_path).images.identity != Encoders(openvino, tmp_path).images.identity


def test_it_is_refused_on_another_device(tmp_path) -> None:
    encoders = Encoders(ExtractConfig(runtime="openvino"), tmp_path)
    encoders._torch_images.device = device("meta")
    with pytest.raises(InputError, match="runs on CPUs"):
        encoders.images  # noqa: B018
