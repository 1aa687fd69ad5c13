"""The joint views of a BEiT-3: pictures and one text of an item in a single pass."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.encoders import registry
from mmrec.features.encoders.beit3 import Beit3Encoder
from mmrec.features.encoders.registry import load_encoder
from mmrec.features.errors import InputError
from mmrec.features.store import FeatureStore
from mmrec.stages.extract import check_made_for, extract

JOINT = {"joint": "{title}", "joint_blanked": True, "image_views": ()}


@pytest.fixture
def mugs(shop: Path) -> Path:
    """The shop, and an item f with neither picture nor text."""
    items = shop / "items.csv"
    items.write_text(items.read_text() + "f,,\n")
    return shop


def run(shop: Path, store: Path, encoder: str, **settings):
    catalog = CatalogConfig(items=str(shop / "items.csv"), image="image")
    chosen = {**JOINT, "encoder": encoder, "device": "cpu", "shard_rows": 2, "max_failures": 1.0, **settings}
    return extract(catalog, ExtractConfig(**chosen), store)


def test_every_item_with_a_picture_or_a_text_has_a_joint_vector(mugs, beit3, tmp_path) -> None:
    run(mugs, tmp_path / "store", f"beit3:{beit3}")
    store = FeatureStore(tmp_path / "store")
    present = {view: store.read(view)[1].tolist() for view in store.views}
    assert present == {
        "joint": [True, True, True, True, True, False],
        "joint.image": [True, True, True, True, False, False],
        "joint.text": [True, True, True, False, True, False],
    }
    encoder = load_encoder(f"beit3:{beit3}", device="cpu")
    assert isinstance(encoder, Beit3Encoder)
    image = encoder.transform(Image.new("RGB", (8, 8), (60, 0, 195)))
    red, blue = encoder.tokenize("red"), encoder.tokenize("blue")
    grey = encoder.transform(Image.new("RGB", (8, 8), (180, 0, 75)))
    expected = encoder.encode_joint([image, image, None, grey, None], [red, None, red, None, blue])
    joint, alone, text = (store.read(view)[0] for view in ("joint", "joint.image", "joint.text"))
    found = [joint[1], alone[1], text[1], joint[3], joint[4]]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_joint_view_stands_beside_the_others_and_leaves_them_alone(mugs, beit3, tmp_path) -> None:
    views = {"image_views": ["full"], "text_views": {"title": "{title}"}, "joint_blanked": False}
    run(mugs, tmp_path / "with", f"beit3:{beit3}", **views)
    run(mugs, tmp_path / "without", f"beit3:{beit3}", **views | {"joint": None})
    stores = [FeatureStore(tmp_path / name) for name in ("with", "without")]
    assert stores[0].views == ["image.full", "text.title", "joint"]
    for view in stores[1].views:
        np.testing.assert_array_equal(stores[0].read(view)[0], stores[1].read(view)[0])


def test_a_joint_text_past_the_context_is_cut_and_counted(mugs, beit3, tmp_path) -> None:
    run(mugs, tmp_path / "store", f"beit3:{beit3}", context_length=4)
    run(mugs, tmp_path / "whole", f"beit3:{beit3}", context_length=40)
    counts = FeatureStore(tmp_path / "store").manifest["counts"]
    encoder = load_encoder(f"beit3:{beit3}", device="cpu")
    excess = [len(encoder.tokenize(text)) - 2 for text in ("red", "red", "blue", "a title of 24 characters")]
    cut = [tokens for tokens in excess if tokens > 0]
    expected = {"joint_texts": 4, "joint_texts_truncated": len(cut), "joint_tokens_dropped": sum(cut)}
    assert cut and counts == expected
    assert FeatureStore(tmp_path / "whole").manifest["counts"]["joint_tokens_dropped"] == 0


def test_several_pictures_are_averaged(beit3, png, tmp_path) -> None:
    items = {"item_id": ["a"], "image": [[png((200, 0, 0)), png((0, 200, 0))]], "title": ["red"]}
    pl.DataFrame(items).write_parquet(tmp_path / "items.parquet")
    catalog = CatalogConfig(items=str(tmp_path / "items.parquet"), image="image")
    encoder = load_encoder(f"beit3:{beit3}", device="cpu", normalise=False)
    assert isinstance(encoder, Beit3Encoder)
    pictures = [encoder.transform(Image.new("RGB", (8, 8), colour)) for colour in ((200, 0, 0), (0, 200, 0))]
    both = encoder.encode_joint(pictures, [encoder.tokenize("red")] * 2)
    for pooling, expected in (("mean", both.mean(axis=0)), ("first", both[0])):
        config = ExtractConfig(
            encoder=f"beit3:{beit3}", device="cpu", joint="{title}", normalise=False, image_pooling=pooling
        )
        extract(catalog, config, tmp_path / pooling)
        np.testing.assert_allclose(FeatureStore(tmp_path / pooling).read("joint")[0][0], expected, atol=5e-3)


def test_a_broken_picture_is_listed_and_the_text_stays(mugs, beit3, tmp_path) -> None:
    (mugs / "1.png").write_text("no picture")
    report = run(mugs, tmp_path / "store", f"beit3:{beit3}")
    store = FeatureStore(tmp_path / "store")
    assert report.reasons == {"not_an_image": 1} and store.failures()["item_id"].to_list() == ["b"]
    np.testing.assert_array_equal(store.read("joint")[0][1], store.read("joint.text")[0][1])


def test_texts_alone_need_no_image_column(mugs, beit3, tmp_path) -> None:
    config = ExtractConfig(encoder=f"beit3:{beit3}", device="cpu", joint="{title}")
    extract(CatalogConfig(items=str(mugs / "items.csv")), config, tmp_path / "store")
    assert FeatureStore(tmp_path / "store").read("joint")[1].tolist() == [
        True,
        True,
        True,
        False,
        True,
        False,
    ]


def test_only_what_changed_is_encoded_again(mugs, beit3, tmp_path, monkeypatch) -> None:
    run(mugs, tmp_path / "store", f"beit3:{beit3}")
    before = FeatureStore(tmp_path / "store").read("joint")[0].copy()
    items = mugs / "items.csv"
    items.write_text(items.read_text().replace("b,1.png,red", "b,1.png,green"))
    report = run(mugs, tmp_path / "store", f"beit3:{beit3}")
    assert (report.encoded, report.reused) == (1, 5)
    after = FeatureStore(tmp_path / "store").read("joint")[0]
    assert (after != before).any(axis=1).tolist() == [False, True, False, False, False, False]

    monkeypatch.setattr(registry, "load_encoder", lambda *_: pytest.fail("the encoder was loaded"))
    assert run(mugs, tmp_path / "store", f"beit3:{beit3}").up_to_date
    monkeypatch.undo()
    assert run(mugs, tmp_path / "store", f"beit3:{beit3}", joint="A {title}").encoded == 6
    with pytest.raises(InputError, match=r"joint = 'A \{title\}' \(config: '\{title\}'\)"):
        check_made_for(FeatureStore(tmp_path / "store"), ExtractConfig(encoder=f"beit3:{beit3}", **JOINT))


def test_a_killed_job_goes_on_and_ends_as_an_uninterrupted_one(mugs, beit3, tmp_path, monkeypatch) -> None:
    name = f"beit3:{beit3}"
    run(mugs, tmp_path / "whole", name)
    encode, calls = Beit3Encoder.encode_joint, []

    def killed(self, pixels, windows):
        calls.append(len(pixels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, pixels, windows)

    monkeypatch.setattr(Beit3Encoder, "encode_joint", killed)
    with pytest.raises(KeyboardInterrupt):
        run(mugs, tmp_path / "store", name)
    report = run(mugs, tmp_path / "store", name)
    assert report.encoded == 4
    whole, store = FeatureStore(tmp_path / "whole"), FeatureStore(tmp_path / "store")
    assert store.manifest["shards"] == whole.manifest["shards"]


def test_an_encoder_that_reads_them_apart_is_refused(mugs, tmp_path) -> None:
    with pytest.raises(InputError, match=r"extract.joint: 'tiny' reads images and texts apart; .*beit3:"):
        run(mugs, tmp_path / "store", "tiny")
    assert not (tmp_path / "store").exists()


def test_mistakes_in_the_config_are_named(mugs, beit3, tmp_path) -> None:
    with pytest.raises(InputError, match=r"text view 'joint' uses 'titel' .*did you mean 'title'"):
        run(mugs, tmp_path / "store", f"beit3:{beit3}", joint="{titel}")
    with pytest.raises(ValueError, match="joint_blanked is set, but joint is not"):
        ExtractConfig(joint_blanked=True)
    with pytest.raises(ValueError, match="foreign view 'joint' has the name of another column"):
        ExtractConfig(joint="{title}", foreign={"joint": "joint.npy"})
    ExtractConfig(foreign={"joint": "joint.npy"})
