"""An encoder trained with a recommender, from a catalogue to features that extraction gives again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.encoders import open_clip
from mmrec.features.encoders.trainable import load_trainable
from mmrec.features.errors import InputError as FeaturesInputError
from mmrec.features.store import FeatureStore
from mmrec.recsys.config import InteractionsConfig, TrainConfig
from mmrec.recsys.errors import InputError
from mmrec.stages import end_to_end, item_inputs
from mmrec.stages.bundle import read_bundle
from mmrec.stages.dataset import load_dataset
from mmrec.stages.end_to_end import ItemSource, trained_extract
from mmrec.stages.extract import extract
from mmrec.stages.train import TrainReport, train

N_ITEMS = 12
SETTINGS = {
    "model": "vbpr", "dim": 4, "epochs": 3, "batch_size": 20, "device": "cpu", "checkpoint_every": 0,
    "learning_rate": 0.05, "encoder": "end-to-end", "metric": "ndcg@10",
}  # fmt: skip
END_TO_END = {"learning_rate": 1e-3, "warmup_epochs": 0, "micro_batch": 4}


class Shop:
    """Twelve items, some with two pictures, a missing picture or title, a shared or a long title."""

    def __init__(self, folder: Path, **extracting: Any) -> None:
        folder.mkdir(exist_ok=True)
        rng = np.random.default_rng(0)
        for n in range(N_ITEMS):
            pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((40, 40)).save(folder / f"{n}.png")
        images = [[f"{n}.png"] for n in range(N_ITEMS)]
        images[1], images[2] = ["1.png", "2.png"], []
        titles = [
            f"a {colour} {thing}"
            for colour in ("red", "blue", "green")
            for thing in ["mug", "cup", "hat", "bag"]
        ]
        titles[3], titles[4], titles[5] = None, titles[0], " ".join(["a very long title of a mug"] * 20)
        items = {"item_id": [f"i{n}" for n in range(N_ITEMS)], "image": images, "title": titles}
        pl.DataFrame(items).write_parquet(folder / "items.parquet")
        pairs = [(f"u{u}", f"i{(u + step * (1 + u % 3)) % N_ITEMS}") for u in range(8) for step in range(5)]
        log = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row").unique(maintain_order=True)
        log.write_csv(folder / "log.csv")
        self.folder = folder
        settings = {"text_views": {"title": "{title}"}, "image_views": ["full"], "device": "cpu"}
        self.source = ItemSource(
            CatalogConfig(items=str(folder / "items.parquet"), image="image"),
            ExtractConfig.model_validate(settings | extracting),
        )
        self.extract()

    def extract(self) -> None:
        extract(self.source.catalog, self.source.extract, self.folder / "features")

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(self.folder / "features")

    def train(self, run: str = "run", tuned: dict[str, Any] | None = None, **settings: Any) -> TrainReport:
        log = InteractionsConfig(path=str(self.folder / "log.csv"), ratios=(0.6, 0.2, 0.2))
        config = SETTINGS | {"end_to_end": END_TO_END | (tuned or {})} | settings
        dataset = load_dataset(log, self.store)
        train_config = TrainConfig.model_validate(config)
        return train(dataset, self.store, train_config, self.model(run), source=self.source)

    def model(self, run: str = "run") -> Path:
        return self.folder / run / "model"


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def trained(shop: Shop) -> TrainReport:
    return shop.train()


def test_the_trained_encoder_is_read_by_extraction_and_gives_the_rows_of_the_bank(
    shop: Shop, trained: TrainReport, monkeypatch
) -> None:
    asked = trained_extract(shop.source.extract, shop.model())
    extract(shop.source.catalog, asked, shop.folder / "trained")
    before, after = shop.store, FeatureStore(shop.folder / "trained")
    bundle = read_bundle(shop.model())
    state = _state(shop.model() / "model.safetensors")
    content = np.zeros((N_ITEMS, 5), np.float32)
    for number, view in enumerate(("image.full", "text.title")):
        rows, present = after.read(view)
        stored, held = before.read(view)
        assert (present == held).all()
        assert np.abs(rows.astype(np.float32) - stored)[present].max() > 1e-6
        content += rows.astype(np.float32) @ state[f"projections.{number}.linear.weight"].T
    items = state["item.weight"]  # (gamma, beta)
    vectors = np.concatenate([items[:, :4], content[:, :4], items[:, 4:] + content[:, 4:]], axis=1)
    np.testing.assert_allclose(bundle.vectors.items, vectors, atol=5e-3)
    figures = trained.encoder
    assert figures["gradient_norm"] > 0 and figures["drift"]["image.full"] > 1e-6


def _state(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def test_a_finished_run_is_reused_until_its_encoder_is_gone(shop: Shop, trained: TrainReport) -> None:
    assert shop.train().up_to_date
    assert shop.train(tuned={"micro_batch": 3}).up_to_date  # how, not what
    (shop.model().with_name("encoder-end-to-end") / "end-to-end.json").unlink()
    assert shop.train().changed == ["encoder"]
    frozen = shop.train("frozen", encoder="frozen")
    assert frozen.changed == ["new"] and not frozen.encoder
    assert shop.train("frozen", encoder="frozen", tuned={"clip": 5.0}).up_to_date


def test_a_killed_run_goes_on_to_the_same_bytes(shop: Shop, trained: TrainReport, monkeypatch) -> None:
    kept = end_to_end.EndToEnd.end_epoch

    def killed(self, epoch: int) -> dict[str, Any]:
        if epoch == 2:
            raise KeyboardInterrupt
        return kept(self, epoch)

    monkeypatch.setattr(end_to_end.EndToEnd, "end_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        shop.train("killed")
    monkeypatch.setattr(end_to_end.EndToEnd, "end_epoch", kept)
    shop.train("killed")
    files = ["model/model.safetensors", "model/items.parquet", "encoder-end-to-end/model.safetensors"]
    for file in files:
        assert (shop.folder / "run" / file).read_bytes() == (shop.folder / "killed" / file).read_bytes()


def test_pictures_are_decoded_once_and_each_crop_is_encoded_once(shop: Shop, trained, monkeypatch) -> None:
    monkeypatch.setattr(item_inputs, "DecodePool", None)  # it would be called to decode
    seen: list[int] = []
    plain = open_clip.OpenClipEncoder.image_vectors

    def counted(self, pixels):
        seen.append(len(pixels))
        return plain(self, pixels)

    monkeypatch.setattr(open_clip.OpenClipEncoder, "image_vectors", counted)
    shop.train("again", tuned={"micro_batch": 100, "sample": 4}, epochs=1)
    assert max(seen) == N_ITEMS  # one picture each; that of item 2 is the second one of item 1


def test_two_runs_may_decode_the_pictures_of_one_store_at_the_same_time(tmp_path, monkeypatch) -> None:
    shop, encoder = Shop(tmp_path / "shop", shard_rows=3), load_trainable("tiny", device="cpu")
    add, within = item_inputs._PixelCache.add, []

    def read() -> np.ndarray:
        inputs = item_inputs.read_item_inputs(
            shop.source.catalog, shop.source.extract, shop.store, encoder, None
        )
        return np.array(inputs.pixels)

    def interleaved(self, *given) -> None:
        add(self, *given)
        if not within:
            within.append(None)
            within.append(read())

    monkeypatch.setattr(item_inputs._PixelCache, "add", interleaved)
    np.testing.assert_array_equal(read(), within[1])
    assert len(list((shop.folder / "features/.cache").glob("*pixels*"))) == 2


def test_one_encoder_named_twice_reads_the_texts_after_its_training_too(tmp_path) -> None:
    shop = Shop(tmp_path / "shop", encoder="tiny", text_encoder="tiny")
    shop.train(epochs=1)
    asked = trained_extract(shop.source.extract, shop.model())
    assert asked.encoder != "tiny" and not asked.texts_apart


@pytest.mark.parametrize("long_text", ["mean", "length-weighted", "sum", "truncate"])
@pytest.mark.parametrize("normalise", [True, False])
def test_vectors_are_pooled_as_in_extraction(tmp_path, long_text: str, normalise: bool) -> None:
    """`check_fresh` compares them with the store's."""
    shop = Shop(
        tmp_path / "shop", long_text=long_text, normalise=normalise, image_views=["center", "quadrants"]
    )
    assert shop.train(epochs=1, tuned={"warmup_epochs": 1}).epochs == 1


def test_other_weights_than_the_stores_are_refused(shop: Shop, monkeypatch) -> None:
    monkeypatch.setattr(end_to_end, "TOLERANCES", {"fp32": -1.0})
    with pytest.raises(InputError, match=r"'image\.full': the stored vectors are not what the encoder gives"):
        shop.train("other")


def test_items_that_changed_since_extraction_are_refused(tmp_path) -> None:
    shop = Shop(tmp_path / "shop")
    Image.new("RGB", (40, 40)).save(shop.folder / "7.png")
    with pytest.raises(FeaturesInputError, match="1 of 12 items have changed since"):
        shop.train()


def test_what_no_gradient_can_reach_is_refused(shop: Shop) -> None:
    with pytest.raises(InputError, match="bpr reads no features"):
        shop.train("bpr", model="bpr")
    with pytest.raises(InputError, match=r"the loss of FREEDOM .* does not depend on item features"):
        shop.train("freedom", model="freedom", freedom={"reg_weight": 0.0})


def test_views_of_an_image_alone_train_alone(shop: Shop) -> None:
    shop.train("image", views=["image.full"], tuned={"method": "last-layers", "last_layers": 1}, epochs=1)
    account = json.loads((shop.folder / "image/encoder-end-to-end/end-to-end.json").read_text())
    assert account["name"].startswith("open_clip:") and account["settings"]["method"] == "last-layers"


def test_encoders_of_their_own_for_pictures_and_texts_are_trained_together(
    tmp_path, timm_checkpoint, sentence_folder
) -> None:
    names = {"encoder": timm_checkpoint, "text_encoder": f"sentence:{sentence_folder}"}
    shop = Shop(tmp_path / "shop", **names, image_size=32)
    report = shop.train(epochs=2, tuned={"layer_decay": 0.5})
    assert set(report.encoder["drift"]) == {"image.full", "text.title"}
    asked = trained_extract(shop.source.extract, shop.model())
    assert asked.encoder != timm_checkpoint and asked.text_encoder != names["text_encoder"]
    extract(shop.source.catalog, asked, shop.folder / "trained")
    for view in ("image.full", "text.title"):
        rows, stored = (store.read(view)[0] for store in (FeatureStore(shop.folder / "trained"), shop.store))
        assert rows.shape == stored.shape and not np.array_equal(rows, stored)
