import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mmrec.features import tensors
from mmrec.features.encoders import beit3_checkpoint
from mmrec.features.encoders.beit3_checkpoint import find_beit3, load_beit3, write_beit3
from mmrec.features.encoders.beit3_model import Beit3, Beit3Config
from mmrec.features.encoders.state_dicts import write_state
from mmrec.features.errors import InputError

TINY = Beit3Config(
    width=64, layers=2, heads=1, hidden=32, vocabulary=30, image_size=32, patch_size=8, text_positions=12
)
MASKED = dataclasses.replace(TINY, mlm_head=True, mim_outputs=20)
QUERIES = "beit3.encoder.layers.1.self_attn.q_proj.B.weight"


def state_of(config: Beit3Config) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Beit3(config).state_dict()


@pytest.mark.parametrize("kind", ["base", "large"])
@pytest.mark.parametrize("heads", ["itc", "masked"])
def test_the_official_key_lists_load_strictly(
    shared: Path, tmp_path: Path, monkeypatch, kind: str, heads: str
) -> None:
    """Fed without a byte of weights: the reader is given tensors that have shapes alone."""
    name = f"beit3_{kind}_patch16_224_retrieval_key_shapes.json"
    shapes = json.loads((shared / "parity" / "beit3" / name).read_text())
    if heads == "masked":
        width = shapes["vision_head.weight"][0]
        for key in ("vision_head.weight", "language_head.weight", "logit_scale"):
            del shapes[key]
        shapes |= {"mlm_head.weight": [64010, width], "mlm_head.bias": [64010]}
        shapes |= {"mim_head.weight": [8192, width], "mim_head.bias": [8192]}
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    monkeypatch.setattr(beit3_checkpoint, "read_state", lambda *_: dict(state))
    (tmp_path / "beit3.pth").touch()
    model = load_beit3(tmp_path / "beit3.pth")
    config = model.config
    sizes = config.width, config.layers, config.heads, config.hidden
    assert sizes == ((768, 12, 12, 3072) if kind == "base" else (1024, 24, 16, 4096))
    assert (config.vocabulary, config.image_size, config.max_text) == (64010, 224, 1022)
    assert (config.retrieval_heads, config.mim_outputs) == ((True, 0) if heads == "itc" else (False, 8192))
    assert {key: list(tensor.shape) for key, tensor in model.state_dict().items()} == shapes


@pytest.mark.parametrize("nesting", ["model", "module", None])
def test_weights_are_found_in_every_nesting(tmp_path: Path, nesting: str | None) -> None:
    state = state_of(MASKED)
    fine_tuned = {nesting: state, "args": argparse.Namespace(lr=1e-4), "epoch": 3}
    torch.save(fine_tuned if nesting else state, tmp_path / "beit3.pth")
    model = load_beit3(tmp_path / "beit3.pth")
    assert model.config == MASKED and not model.training
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[key])


def test_half_precision_safetensors_become_float32(tmp_path: Path) -> None:
    save_file({key: tensor.half() for key, tensor in state_of(TINY).items()}, tmp_path / "beit3.safetensors")
    parameters = list(load_beit3(tmp_path / "beit3.safetensors").parameters())
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in parameters)


def test_a_written_model_is_read_back_with_its_heads_and_context(tmp_path: Path) -> None:
    model = Beit3(dataclasses.replace(TINY, heads=4))  # not one per 64 dimensions
    (tmp_path / "own.spm").write_bytes(b"pieces")
    write_beit3(tmp_path / "out", model, tmp_path / "own.spm", context_length=10)
    files = find_beit3(str(tmp_path / "out"))
    assert (files.heads, files.context_length, files.tokenizer.read_bytes()) == (4, 10, b"pieces")
    again = load_beit3(tmp_path / "out")
    assert again.config == model.config
    text = torch.tensor([[0, 5, 6, 2]])
    torch.testing.assert_close(again(text_ids=text), model.eval()(text_ids=text))
    assert {file.stat().st_mode & 0o444 for file in (tmp_path / "out").iterdir()} == {0o444}


def test_a_full_disk_is_told_as_such_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def full(*_) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_state(tmp_path / "model.safetensors", Beit3(TINY))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({QUERIES: None}, rf"lacks '{QUERIES}' \[64, 64\]"),
        ({"head.weight": torch.zeros(3, 64)}, r"has 'head.weight' \[3, 64\], which a BEiT-3 .* has not"),
        ({QUERIES: torch.zeros(64, 32)}, rf"'{QUERIES}' of shape \[64, 32\], expected \[64, 64\]"),
        (
            {"vision_head.weight": torch.zeros(64, 64)},
            r"lacks 'logit_scale' \[\], 'language_head.weight'",
        ),
        ({"beit3.text_embed.weight": None}, "is no BEiT-3: it lacks 'beit3.text_embed.weight'"),
        ({"beit3.vision_embed.proj.weight": torch.zeros(64)}, r"has shape \[64\]; expected 4 axes"),
        ({"beit3.encoder.embed_positions.A.weight": torch.zeros(20, 64)}, "has 20 rows; expected 3 and one"),
    ],
)
def test_keys_and_shapes_that_differ_are_named(tmp_path: Path, change: dict, message: str) -> None:
    state = {**state_of(TINY), **change}
    kept = {key: tensor for key, tensor in state.items() if tensor is not None}
    torch.save(kept, tmp_path / "beit3.pth")
    with pytest.raises(InputError, match=message):
        load_beit3(tmp_path / "beit3.pth")


def test_files_that_are_no_state_dict_are_refused(tmp_path: Path) -> None:
    for name in ("beit3.pth", "beit3.safetensors"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(InputError, match="cannot be read"):
            load_beit3(tmp_path / name)
    torch.save({"model": {"epoch": 3}}, tmp_path / "beit3.pth")
    with pytest.raises(InputError, match="no state dict"):
        load_beit3(tmp_path / "beit3.pth")
    with pytest.raises(FileNotFoundError, match=r"beit4\.pth"):
        load_beit3(tmp_path / "beit4.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({7: torch.zeros(2)}, "found 7 with a Tensor; expected tensors by name"),
        ({"model": {("a", 1): torch.zeros(2)}}, r"found \('a', 1\) with a Tensor"),
        ({"model": {"weights": {"a": torch.zeros(2)}}}, "neither under 'model', .*'weights' with a dict"),
        ([torch.zeros(2)], "found a list"),
        ({"a": np.zeros(2)}, "cannot be read"),
    ],
)
def test_what_is_no_tensor_by_name_is_named(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "beit3.pth")
    with pytest.raises(InputError, match=message):
        load_beit3(tmp_path / "beit3.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_every_piece_of_a_checkpoint_and_any_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "beit3.pth"
    torch.save({"model": {"a": torch.zeros(2)}}, file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    texts = [b"hello world", b"{}", b"\x80\x02}q."]
    for piece in [whole[:end] for end in range(0, len(whole), 7)] + texts:
        file.write_bytes(piece)
        with pytest.raises(InputError, match=r"cannot be read|no state dict"):
            load_beit3(file)


def test_what_tensors_cannot_say_stands_beside_them(tmp_path: Path) -> None:
    torch.save(state_of(dataclasses.replace(TINY, width=48, heads=4)), tmp_path / "beit3.pth")
    with pytest.raises(InputError, match=r'width of 48 .* put \{"heads": n\} into beit3_config.json'):
        load_beit3(tmp_path / "beit3.pth")
    (tmp_path / "beit3_config.json").write_text('{"heads": 5}')
    with pytest.raises(InputError, match="48 cannot be divided among 5 heads"):
        load_beit3(tmp_path / "beit3.pth")
    (tmp_path / "beit3_config.json").write_text('{"head": 4}')
    with pytest.raises(InputError, match=r"found \{'head': 4\}"):
        load_beit3(tmp_path / "beit3.pth")
    (tmp_path / "beit3_config.json").write_text('{"heads": 4}')
    assert load_beit3(tmp_path / "beit3.pth").config.heads == 4


def test_the_tokenizer_lies_beside_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "base.pth"
    weights.touch()
    with pytest.raises(InputError, match=r"beside it as beit3.spm; .spm files there: none"):
        find_beit3(str(weights))
    (tmp_path / "a.spm").touch()
    assert find_beit3(str(weights)).tokenizer.name == "a.spm"
    (tmp_path / "b.spm").touch()
    with pytest.raises(InputError, match=r"there: a.spm, b.spm"):
        find_beit3(str(weights))
    (tmp_path / "beit3.spm").touch()
    assert find_beit3(str(weights)).tokenizer.name == "beit3.spm"
    (tmp_path / "base.spm").touch()
    assert find_beit3(str(weights)).tokenizer.name == "base.spm"


def test_another_image_size_interpolates_the_patch_rows_alone(tmp_path: Path) -> None:
    state = state_of(TINY)
    key = "beit3.encoder.embed_positions.A.weight"
    torch.save(state, tmp_path / "beit3.pth")
    model = load_beit3(tmp_path / "beit3.pth", image_size=48)
    rows = model.state_dict()[key]
    assert (model.config.image_size, rows.shape) == (48, (3 + 36, 64))
    torch.testing.assert_close(rows[:3], state[key][:3])
    grid = state[key][3:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (6, 6), mode="bicubic")[0, :, 2, 5]
    torch.testing.assert_close(rows[3 + 2 * 6 + 5], expected)  # third row, last column
    assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 37, 64)
    with pytest.raises(InputError, match=r"^image_size: .* 50 pixels"):
        load_beit3(tmp_path / "beit3.pth", image_size=50)
