import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.encoders import registry
from mmrec.features.errors import InputError, TooManyFailuresError
from mmrec.features.manifest import sealed
from mmrec.features.store import FeatureStore
from mmrec.stages.extract import check_failures, check_made_for, extract

VIEWS = {"title": "{title}"}


def run(shop: Path, store: Path, **settings):
    catalog = CatalogConfig(items=str(shop / "items.csv"), image="image")
    config = ExtractConfig(**{"text_views": VIEWS, "shard_rows": 2, "max_failures": 1.0, **settings})
    return extract(catalog, config, store)


def test_missing_images_and_texts_are_null_and_nothing_else_is(encoder, shop, tmp_path) -> None:
    report = run(shop, tmp_path / "store")
    store = FeatureStore(tmp_path / "store")
    assert (report.items, report.encoded, report.failed) == (5, 5, 0)
    assert store.read("image.full")[1].tolist() == [True, True, True, True, False]
    assert store.read("text.title")[1].tolist() == [True, True, True, False, True]
    assert np.isnan(store.similarity("title")).tolist() == [False, False, False, True, True]


def test_vectors_and_similarity_are_those_of_the_encoder(encoder, shop, tmp_path) -> None:
    run(shop, tmp_path / "store")
    store = FeatureStore(tmp_path / "store")
    image = encoder.encode_images([np.full((3, 2, 2), 1) * np.array([60, 0, 195]).reshape(3, 1, 1)])[0]
    text = encoder.encode_tokens([encoder.tokenize("red")])[0]
    np.testing.assert_allclose(store.read("image.full")[0][1], image, atol=1e-3)
    assert store.similarity("title")[1] == pytest.approx(float(image @ text), abs=1e-3)


def test_a_text_that_repeats_in_a_shard_is_encoded_once(encoder, shop, tmp_path) -> None:
    run(shop, tmp_path / "store", shard_rows=10, image_views=())
    assert encoder.windows.count(tuple(map(ord, "red"))) == 1


def test_long_texts_are_counted_in_the_manifest(encoder, shop, tmp_path) -> None:
    run(shop, tmp_path / "mean")
    run(shop, tmp_path / "cut", long_text="truncate")
    mean, cut = (FeatureStore(tmp_path / name).manifest["counts"] for name in ("mean", "cut"))
    assert (mean["texts"], mean["texts_windowed"]) == (4, 1) and mean["texts_truncated"] == 0
    assert (cut["texts_truncated"], cut["tokens_dropped"]) == (1, 24 - encoder.content_length)


def test_a_second_run_does_nothing_and_loads_no_encoder(encoder, shop, tmp_path, monkeypatch) -> None:
    run(shop, tmp_path / "store")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    monkeypatch.setattr(registry, "load_encoder", lambda *_: pytest.fail("the encoder was loaded"))
    report = run(shop, tmp_path / "store")
    assert report.up_to_date and (report.encoded, report.reused) == (0, 5)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()} == before


def test_exactly_the_touched_items_are_encoded_again(encoder, shop, png, tmp_path) -> None:
    run(shop, tmp_path / "store")
    untouched = FeatureStore(tmp_path / "store").read("image.full", pl.Series(["a", "d"]))[0]
    items = shop / "items.csv"
    items.write_text(items.read_text().replace("b,1.png,red", "b,1.png,green"))
    (shop / "2.png").write_bytes(png((9, 9, 9)))
    encoder.images = 0
    report = run(shop, tmp_path / "store")
    assert (report.encoded, report.reused, encoder.images) == (2, 3, 2)
    store = FeatureStore(tmp_path / "store")
    np.testing.assert_array_equal(store.read("image.full", pl.Series(["a", "d"]))[0], untouched)
    grey = encoder.encode_images([np.full((3, 2, 2), 9)])[0]
    np.testing.assert_allclose(store.read("image.full", pl.Series(["c"]))[0][0], grey, atol=1e-3)


def test_another_view_definition_encodes_everything_again(encoder, shop, tmp_path) -> None:
    run(shop, tmp_path / "store")
    report = run(shop, tmp_path / "store", text_views={"title": "A {title}."})
    assert (report.encoded, report.reused) == (5, 0)


def test_bad_images_cost_their_item_its_view_and_are_listed(encoder, shop, png, tmp_path) -> None:
    (shop / "0.png").write_text("not a picture")
    (shop / "1.png").write_bytes(png((1, 2, 3))[:40])
    (shop / "2.png").unlink()
    report = run(shop, tmp_path / "store")
    store = FeatureStore(tmp_path / "store")
    assert report.failed == 3 and store.read("image.full")[1].tolist() == [False, False, False, True, False]
    ledger = dict(store.failures().select("item_id", "reason").iter_rows())
    assert (
        ledger["a"] == "not_an_image" and ledger["c"] == "missing" and ledger["b"] in ("truncated", "corrupt")
    )


def test_past_max_failures_the_finished_job_is_refused(encoder, shop, tmp_path) -> None:
    (shop / "0.png").unlink()
    report = run(shop, tmp_path / "store")
    assert len(FeatureStore(tmp_path / "store")) == 5
    check_failures(report, ExtractConfig(max_failures=0.2), tmp_path / "store")
    with pytest.raises(TooManyFailuresError, match="1 of 5 items failed"):
        check_failures(report, ExtractConfig(max_failures=0.1), tmp_path / "store")


def test_a_lost_ledger_is_written_again(encoder, shop, tmp_path) -> None:
    (shop / "0.png").unlink()
    run(shop, tmp_path / "store")
    for ledger in (tmp_path / "store").glob("failures*"):
        ledger.unlink()
    assert run(shop, tmp_path / "store").encoded == 0
    assert FeatureStore(tmp_path / "store").failures()["item_id"].to_list() == ["a"]


def test_a_request_that_changes_no_vector_is_noted_and_then_trained_on(encoder, shop, tmp_path) -> None:
    run(shop, tmp_path / "store")
    crops = {"logo": [0, 0, 0.5, 0.5]}
    asked = ExtractConfig(text_views=VIEWS, crops=crops)
    with pytest.raises(InputError, match="crops"):
        check_made_for(FeatureStore(tmp_path / "store"), asked)
    assert run(shop, tmp_path / "store", crops=crops).up_to_date
    check_made_for(FeatureStore(tmp_path / "store"), asked)


def test_a_store_from_before_a_key_existed_is_as_its_default(encoder, shop, tmp_path) -> None:
    run(shop, tmp_path / "store")
    manifest = tmp_path / "store" / "manifest.json"
    account = json.loads(manifest.read_text())
    del account["stats"]["request"]["normalise"]
    manifest.write_text(json.dumps(sealed(account)))
    check_made_for(FeatureStore(tmp_path / "store"), ExtractConfig(text_views=VIEWS))
    with pytest.raises(InputError, match=r"normalise = True \(config: False\)"):
        check_made_for(FeatureStore(tmp_path / "store"), ExtractConfig(text_views=VIEWS, normalise=False))


def test_limits_on_quality_change_no_request(encoder, shop, tmp_path) -> None:
    run(shop, tmp_path / "store")
    gated = ExtractConfig(text_views=VIEWS, min_similarity={"title": 0.9}, max_mismatched=0.1)
    check_made_for(FeatureStore(tmp_path / "store"), gated)


def test_ready_made_views_are_encoded_and_their_other_form_encodes_again(encoder, shop, tmp_path) -> None:
    preset = {"text_views": {}, "views": "cliper"}
    run(shop, tmp_path / "store", **preset)
    store = FeatureStore(tmp_path / "store")
    assert store.similarities == ["title", "global"]
    assert store.manifest["space"]["prompts"] == {"title": "The product title is "}
    assert store.read("text.title")[1].tolist() == [True, True, True, False, True]
    assert run(shop, tmp_path / "store", **preset).up_to_date
    released = run(shop, tmp_path / "store", **preset | {"views": "cliper-as-released"})
    assert (released.encoded, released.reused) == (5, 0)
    store = FeatureStore(tmp_path / "store")
    assert store.similarities == ["title"] and store.read("text.title")[1].all()  # "Missing" is a title


def test_summed_windows_keep_their_length_and_similarity_stays_a_cosine(encoder, shop, tmp_path) -> None:
    run(shop, tmp_path / "mean")
    run(shop, tmp_path / "sum", long_text="sum")
    mean, added = (FeatureStore(tmp_path / name) for name in ("mean", "sum"))
    long = mean.read("text.title")[0][2], added.read("text.title")[0][2]  # 24 tokens in windows of 8
    assert np.linalg.norm(long[0].astype(np.float32)) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(
        long[1] / np.linalg.norm(long[1].astype(np.float32)), long[0].astype(np.float32), atol=2e-3
    )
    assert np.linalg.norm(long[1].astype(np.float32)) > 2
    np.testing.assert_allclose(added.similarity("title"), mean.similarity("title"), atol=1e-3)


def test_without_normalising_crops_are_averaged_and_no_more(encoder, shop, tmp_path, monkeypatch) -> None:
    encode = encoder.encode_images
    monkeypatch.setattr(encoder, "encode_images", lambda pixels: 3 * encode(pixels))
    settings = {"image_views": ("full", "quadrants"), "normalise": False}
    run(shop, tmp_path / "store", **settings)
    store = FeatureStore(tmp_path / "store")
    for view in ("image.full", "image.quadrants"):  # the pictures are of one colour
        values, present = store.read(view)
        np.testing.assert_allclose(np.linalg.norm(values[present].astype(np.float32), axis=1), 3, atol=1e-2)
    assert store.manifest["space"]["normalisation"] == "none"
    assert store.similarity("title")[0] == pytest.approx(
        float(
            encode([np.full((3, 2, 2), 1) * np.array([0, 0, 255]).reshape(3, 1, 1)])[0]
            @ encoder.encode_tokens([encoder.tokenize("red")])[0]
        ),
        abs=1e-3,
    )


def test_context_norms_and_image_size_reach_the_encoder(encoder, shop, tmp_path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(registry, "load_encoder", lambda *given: asked.append(given) or encoder)
    run(shop, tmp_path / "store", context_length=248, normalise=False, image_size=384)
    assert asked == [("tiny", "fp32", "auto", 248, False, 384)]


def test_a_killed_job_goes_on_and_ends_as_an_uninterrupted_one(encoder, shop, tmp_path, monkeypatch) -> None:
    run(shop, tmp_path / "whole")
    encode, calls = encoder.encode_images, []

    def killed(pixels):
        calls.append(len(pixels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(pixels)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoder, "encode_images", killed)
        run(shop, tmp_path / "killed")
    report = run(shop, tmp_path / "killed")
    assert (report.encoded, report.reused) == (3, 2)
    whole, resumed = (
        pl.concat([pl.read_parquet(path) for path in sorted((tmp_path / name).glob("part-*.parquet"))])
        for name in ("whole", "killed")
    )
    assert resumed.equals(whole)


def test_several_boxes_are_averaged_at_unit_length(encoder, shop, tmp_path) -> None:
    run(shop, tmp_path / "store", image_views=("full", "quadrants"))
    store = FeatureStore(tmp_path / "store")
    full, quadrants = store.read("image.full")[0], store.read("image.quadrants")[0]
    np.testing.assert_allclose(quadrants, full, atol=1e-3)  # the pictures are of one colour


def test_foreign_features_need_no_catalogue(tmp_path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "visual.npy", matrix)
    config = ExtractConfig(foreign={"visual": str(tmp_path / "visual.npy")})
    assert extract(None, config, tmp_path / "store").items == 3
    store = FeatureStore(tmp_path / "store")
    np.testing.assert_array_equal(store.read("visual")[0], matrix)
    assert store.item_ids.to_list() == [0, 1, 2]


@pytest.mark.parametrize(
    "content", ["ragged rows", "pickled objects", "integers", "nothing", "an archive", "half an archive"]
)
def test_a_file_that_is_no_matrix_is_refused(tmp_path, content) -> None:
    file = tmp_path / "visual.npy"
    if content == "ragged rows":
        file.write_text("1,2\n3\n")
    elif content == "nothing":
        file.touch()
    elif "archive" in content:
        np.savez(tmp_path / "visual.npz", np.ones((3, 2)))
        archive = (tmp_path / "visual.npz").read_bytes()
        file.write_bytes(archive if content == "an archive" else archive[:20])
    else:
        matrix = np.array([{}]) if content == "pickled objects" else np.array([[1, 2]])
        np.save(file, matrix, allow_pickle=True)
    with pytest.raises(InputError, match=r"visual\.npy"):
        extract(None, ExtractConfig(foreign={"visual": str(file)}), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_rows_that_do_not_match_the_catalogue_are_refused(encoder, shop, tmp_path) -> None:
    np.save(tmp_path / "visual.npy", np.ones((3, 2)))
    with pytest.raises(InputError, match="3 rows for 5 items"):
        run(shop, tmp_path / "store", foreign={"visual": str(tmp_path / "visual.npy")})


def test_a_row_of_nan_is_an_absent_feature_and_one_nan_is_an_error(tmp_path) -> None:
    matrix = np.ones((3, 2), np.float32)
    matrix[1] = np.nan
    np.save(tmp_path / "visual.npy", matrix)
    config = ExtractConfig(foreign={"visual": str(tmp_path / "visual.npy")})
    extract(None, config, tmp_path / "store")
    assert FeatureStore(tmp_path / "store").read("visual")[1].tolist() == [True, False, True]
    matrix[2, 0] = np.nan
    np.save(tmp_path / "visual.npy", matrix)
    with pytest.raises(InputError, match="visual: 1 vectors hold NaN"):
        extract(None, config, tmp_path / "store")


def test_a_store_of_other_settings_is_not_trained_on(encoder, shop, tmp_path) -> None:
    run(shop, tmp_path / "store")
    asked = ExtractConfig(text_views=VIEWS, encoder="open_clip:ViT-B-32/openai", shard_rows=7)
    with pytest.raises(InputError, match=r"encoder = 'tiny' \(config: 'open_clip:ViT-B-32/openai'\)"):
        check_made_for(FeatureStore(tmp_path / "store"), asked)
    check_made_for(FeatureStore(tmp_path / "store"), ExtractConfig(text_views=VIEWS, shard_rows=7))


def test_texts_go_to_an_encoder_of_their_own(shop, timm_checkpoint, sentence_folder, tmp_path) -> None:
    names = {"encoder": timm_checkpoint, "text_encoder": f"sentence:{sentence_folder}", "device": "cpu"}
    run(shop, tmp_path / "store", **names)
    store = FeatureStore(tmp_path / "store")
    assert (store.dim("image.full"), store.dim("text.title")) == (64, 16)
    assert store.similarities == [] and store.manifest["space"]["similarity_with"] is None
    texts = registry.load_text_encoder(names["text_encoder"], device="cpu")
    expected = texts.encode_tokens([texts.tokenize("red")])[0]
    np.testing.assert_allclose(store.read("text.title")[0][0], expected, atol=1e-3)
    assert store.manifest["space"]["text_encoder"] == texts.identity
    assert store.manifest["space"]["encoder"]["name"] == "timm:test_vit"

    check_made_for(store, ExtractConfig(text_views=VIEWS, **names))
    with pytest.raises(InputError, match=r"text_encoder = 'sentence:.*' \(config: None\)"):
        check_made_for(
            store, ExtractConfig(text_views=VIEWS, **{**names, "encoder": "tiny", "text_encoder": None})
        )


def test_other_weights_of_either_encoder_encode_again(
    shop, timm_checkpoint, sentence_folder, tmp_path, monkeypatch
) -> None:
    names = {"encoder": timm_checkpoint, "text_encoder": f"sentence:{sentence_folder}", "device": "cpu"}
    run(shop, tmp_path / "store", **names)
    with monkeypatch.context() as patched:
        patched.setattr(registry, "build_encoder", lambda *_: pytest.fail("an encoder was loaded"))
        assert run(shop, tmp_path / "store", **names).up_to_date
    images, texts = (
        Path(timm_checkpoint.removeprefix("timm:test_vit/")),
        sentence_folder / "model.safetensors",
    )
    for file in (images, texts):
        save_file({key: value * 0.9 for key, value in load_file(file).items()}, file)
        assert run(shop, tmp_path / "store", **names).encoded == 5
        assert run(shop, tmp_path / "store", **names).up_to_date


def test_an_encoder_of_texts_alone_needs_no_images(shop, sentence_folder, tmp_path) -> None:
    name = f"sentence:{sentence_folder}"
    run(shop, tmp_path / "store", encoder=name, image_views=(), device="cpu")
    assert FeatureStore(tmp_path / "store").views == ["text.title"]
    with pytest.raises(InputError, match="reads texts alone, but the items have images"):
        run(shop, tmp_path / "other", encoder=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "timm:resnet50"}, "reads images alone; name one for the text views"),
        ({"text_encoder": "timm:resnet50"}, "reads images alone; make it the encoder"),
        ({"encoder": "sentence:a", "text_encoder": "sentence:b"}, "reads texts alone, but there is"),
        ({"text_encoder": "sentence:a", "similarity_floor": 0.1}, "takes one encoder for both"),
    ],
)
def test_encoders_are_given_only_what_they_read(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractConfig(text_views=VIEWS, **settings)
