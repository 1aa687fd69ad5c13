"""A GPU that runs out of memory, played by an encoder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.errors import InputError
from mmrec.features.store import FeatureStore
from mmrec.stages.extract import extract
from mmrec.stages.extraction.batches import FittingBatches


def fitting(most: int, calls: list[int]):
    """An `encode` that has room for so many inputs at once."""

    def encode(inputs, *others):
        calls.append(len(inputs))
        if len(inputs) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more")
        return np.array([[n, *(other[at] for other in others)] for at, n in enumerate(inputs)])

    return encode


def test_batches_are_halved_for_good_and_every_halving_is_told(caplog) -> None:
    batches, calls = FittingBatches("images", 16), []
    encode = fitting(5, calls)
    rows = batches.encode(encode, range(16))
    assert rows[:, 0].tolist() == list(range(16)) and calls == [16, 8, 4, 4, 4, 4]
    assert batches.encode(encode, range(6)).tolist() == [[n] for n in range(6)] and calls[6:] == [4, 2]
    assert [record.message for record in caplog.records] == [
        "16 images at once do not fit into the GPU's memory: going on with 8 (extract.batch_size)",
        "8 images at once do not fit into the GPU's memory: going on with 4 (extract.batch_size)",
    ]


def test_several_inputs_are_cut_at_the_same_places() -> None:
    rows = FittingBatches("image-text pairs", 4).encode(fitting(2, []), [1, 2, 3, 4], [10, 20, 30, 40])
    assert rows.tolist() == [[1, 10], [2, 20], [3, 30], [4, 40]]


def test_where_not_even_one_fits_it_says_what_to_do() -> None:
    with pytest.raises(
        InputError, match=r"one of the texts .*2\.00 GiB\.\); .*precision = \"bf16\""
    ) as caught:
        FittingBatches("texts", 4).encode(fitting(0, []), [1, 2])
    assert "\n" not in str(caught.value)


def test_an_extraction_goes_on_with_what_fits(encoder, shop, tmp_path, monkeypatch, caplog) -> None:
    catalog = CatalogConfig(items=str(Path(shop) / "items.csv"), image="image")
    config = ExtractConfig(text_views={"title": "{title}"})
    extract(catalog, config, tmp_path / "roomy")
    for name in ("encode_images", "encode_tokens"):
        encode = getattr(encoder, name)

        def bounded(inputs, encode=encode):
            if len(inputs) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return encode(inputs)

        monkeypatch.setattr(encoder, name, bounded)
    extract(catalog, config, tmp_path / "narrow")
    assert "images at once" in caplog.text and "texts at once" in caplog.text
    roomy, narrow = (FeatureStore(tmp_path / name) for name in ("roomy", "narrow"))
    for view in roomy.views:
        np.testing.assert_array_equal(roomy.read(view)[0], narrow.read(view)[0])
