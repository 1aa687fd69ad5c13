import dataclasses
import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmrec.features.encoders import vlmo_checkpoint
from mmrec.features.encoders.multiway import resize_patch_rows
from mmrec.features.encoders.relative_positions import resize_distances
from mmrec.features.encoders.vlmo_checkpoint import find_vlmo, load_vlmo, write_vlmo
from mmrec.features.encoders.vlmo_config import VlmoConfig
from mmrec.features.encoders.vlmo_model import Vlmo
from mmrec.features.errors import InputError

TINY = VlmoConfig(
    width=64,
    layers=2,
    heads=2,
    hidden=32,
    vl_start=1,
    vocabulary=30,
    image_size=32,
    patch_size=8,
    max_text=12,
)
ABSOLUTE = dataclasses.replace(TINY, heads=1, relative=False, layer_scale=False)
PLUS = VlmoConfig(width=544, layers=24, heads=16, hidden=2176, vl_start=21, relative=False, layer_scale=False)
LARGE = VlmoConfig(width=1024, layers=24, heads=16, hidden=4096, vl_start=21)
QKV, TABLE = "transformer.blocks.1.attn.qkv.weight", "relative_position_bias_table"


def state_of(config: VlmoConfig) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = Vlmo(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.state_dict()


@pytest.mark.parametrize(("kind", "config"), [("base", VlmoConfig()), ("base_plus", PLUS), ("large", LARGE)])
def test_the_official_key_lists_load_strictly(
    shared: Path, tmp_path: Path, monkeypatch, kind: str, config: VlmoConfig
) -> None:
    """Fed without a byte of weights: the reader is given tensors that have shapes alone."""
    name = f"vlmo_{kind}_patch16_key_shapes.json"
    shapes = json.loads((shared / "parity" / "vlmo" / name).read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    monkeypatch.setattr(vlmo_checkpoint, "read_state", lambda *_: dict(state))
    (tmp_path / "vlmo.pt").touch()
    model = load_vlmo(tmp_path / "vlmo.pt")
    assert model.config == config
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("nesting", "prefix"), [("state_dict", ""), ("module", "module."), ("model", ""), (None, "")]
)
def test_weights_are_found_in_every_nesting(tmp_path: Path, nesting: str | None, prefix: str) -> None:
    state = state_of(TINY)
    indices = {key: torch.zeros(3, 3, dtype=torch.long) for key in vlmo_checkpoint.NOT_WEIGHTS}
    saved = {f"{prefix}{key}": tensor for key, tensor in {**state, **indices}.items()}
    torch.save({nesting: saved, "epoch": 3} if nesting else saved, tmp_path / "vlmo.pt")
    model = load_vlmo(tmp_path / "vlmo.pt")
    assert model.config == TINY and not model.training
    torch.testing.assert_close(model.state_dict(), state)


def test_half_precision_safetensors_become_float32(tmp_path: Path) -> None:
    save_file({key: tensor.half() for key, tensor in state_of(TINY).items()}, tmp_path / "vlmo.safetensors")
    parameters = list(load_vlmo(tmp_path / "vlmo.safetensors").parameters())
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in parameters)


@pytest.mark.parametrize(
    ("config", "dropped", "changes"),
    [
        (TINY, ("itm_score", "mlm_score", "itc_vl", "logit_vl"), {"itm_head", "mlm_head", "vl_itc_heads"}),
        (ABSOLUTE, ("itc", "logit"), {"itc_heads", "vl_itc_heads"}),
    ],
)
def test_a_checkpoint_may_lack_heads(tmp_path: Path, config: VlmoConfig, dropped, changes) -> None:
    state = {key: tensor for key, tensor in state_of(config).items() if not key.startswith(dropped)}
    torch.save(state, tmp_path / "vlmo.pt")
    assert load_vlmo(tmp_path / "vlmo.pt").config == dataclasses.replace(
        config, **dict.fromkeys(changes, False)
    )


def test_a_checkpoint_of_the_text_stage_has_no_expert_of_both_and_196_positions(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, vl_start=2, max_text=196)
    torch.save(state_of(config), tmp_path / "vlmo.pt")
    assert load_vlmo(tmp_path / "vlmo.pt").config == config


@pytest.mark.parametrize(
    "config", [dataclasses.replace(TINY, text_window=20), dataclasses.replace(ABSOLUTE, heads=4)]
)
def test_a_written_model_is_read_back_with_what_its_tensors_do_not_say(tmp_path: Path, config) -> None:
    model = Vlmo(config)
    (tmp_path / "own.txt").write_text("pieces")
    write_vlmo(tmp_path / "out", model, tmp_path / "own.txt", context_length=10)
    files = find_vlmo(str(tmp_path / "out"))
    assert (files.context_length, files.tokenizer.read_text()) == (10, "pieces")
    again = load_vlmo(tmp_path / "out")
    assert again.config == config
    text = torch.tensor([[2, 5, 6, 3]])
    torch.testing.assert_close(again(text_ids=text), model.eval()(text_ids=text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({QKV: None}, rf"lacks '{QKV}' \[192, 64\]"),
        ({"head.weight": torch.zeros(3, 64)}, r"has 'head.weight' \[3, 64\], which a VLMo .* has not"),
        ({QKV: torch.zeros(192, 32)}, rf"'{QKV}' of shape \[192, 32\], expected \[192, 64\]"),
        ({"logit_scale": None}, r"lacks 'logit_scale' \[\]"),
        ({"transformer.blocks.1.gamma_1": None}, r"lacks 'transformer.blocks.1.gamma_1' \[64\]"),
        ({"text_embeddings.word_embeddings.weight": None}, "is no VLMo: it lacks 'text_embeddings.word_"),
        ({"transformer.patch_embed.proj.weight": torch.zeros(64)}, r"has shape \[64\]; expected 4 axes"),
        ({TABLE: torch.zeros(450, 4)}, r"has 450 rows; expected 397 and one .* \{\"image_size\": n\} into"),
        ({TABLE: torch.zeros(446, 3)}, rf"'{TABLE}' of shape \[446, 3\], expected \[446, 2\]"),
        ({TABLE: None}, "is no VLMo: it lacks 'transformer.pos_embed'"),
    ],
)  # fmt: skip
def test_keys_and_shapes_that_differ_are_named(tmp_path: Path, change: dict, message: str) -> None:
    state = {**state_of(TINY), **change}
    torch.save({key: tensor for key, tensor in state.items() if tensor is not None}, tmp_path / "vlmo.pt")
    with pytest.raises(InputError, match=message):
        load_vlmo(tmp_path / "vlmo.pt")


def test_what_tensors_cannot_say_stands_beside_them(tmp_path: Path) -> None:
    weights, sidecar = tmp_path / "vlmo.pt", tmp_path / "vlmo_config.json"
    torch.save(state_of(dataclasses.replace(ABSOLUTE, width=48, heads=4)), weights)
    with pytest.raises(InputError, match=r'width of 48 .* put \{"heads": n\} into vlmo_config.json'):
        load_vlmo(weights)
    sidecar.write_text('{"heads": 4}')
    assert load_vlmo(weights).config.heads == 4
    sidecar.write_text('{"heads": 4, "image_size": 40}')
    with pytest.raises(InputError, match=r"pos_embed' of shape \[1, 17, 48\], expected \[1, 26, 48\]"):
        load_vlmo(weights)
    sidecar.write_text('{"head": 4}')
    with pytest.raises(InputError, match=r"found \{'head': 4\}"):
        load_vlmo(weights)
    torch.save(state_of(TINY), weights)
    sidecar.write_text('{"image_size": 240}')
    with pytest.raises(InputError, match=r"has 446 rows; expected 3486 for 240 pixels"):
        load_vlmo(weights)


def test_the_vocabulary_lies_beside_the_weights_or_in_the_cache_of_the_hub(
    tmp_path: Path, monkeypatch
) -> None:
    weights = tmp_path / "vlmo.pt"
    weights.touch()

    def offline(*_: object) -> None:
        raise OSError("no such host")

    monkeypatch.setattr(vlmo_checkpoint, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr(vlmo_checkpoint, "hf_hub_download", offline)
    with pytest.raises(InputError, match=r"beside it as vocab.txt; .* cannot be fetched \(no such host\)"):
        find_vlmo(str(weights))
    monkeypatch.setattr(vlmo_checkpoint, "try_to_load_from_cache", lambda *_: "/cache/vocab.txt")
    assert find_vlmo(str(weights)).tokenizer == Path("/cache/vocab.txt")
    (tmp_path / "vocab.txt").touch()
    assert find_vlmo(str(weights)).tokenizer == tmp_path / "vocab.txt"
    with pytest.raises(FileNotFoundError, match=r"none\.pt of VLMo"):
        find_vlmo(str(tmp_path / "none.pt"))


def test_another_image_size_interpolates_the_positions_of_patches(tmp_path: Path) -> None:
    for config in (TINY, ABSOLUTE):
        state = state_of(config)
        torch.save(state, tmp_path / "vlmo.pt")
        model = load_vlmo(tmp_path / "vlmo.pt", image_size=48)
        assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 37, 64)
        if config.relative:
            torch.testing.assert_close(model.state_dict()[TABLE], resize_distances(state[TABLE], 4, 6))
        else:
            rows = model.state_dict()["transformer.pos_embed"][0]
            old = state["transformer.pos_embed"][0]
            torch.testing.assert_close(rows, torch.cat([old[:1], resize_patch_rows(old[1:], 6)]))
    with pytest.raises(InputError, match=r"^image_size: .* 50 pixels"):
        load_vlmo(tmp_path / "vlmo.pt", image_size=50)
