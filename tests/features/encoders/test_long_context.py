"""Texts past CLIP's 77 tokens: stretched positions, and checkpoints in the layout of Long-CLIP."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from mmrec.features.encoders.fingerprint import encoder_fingerprint
from mmrec.features.encoders.long_clip import clip_weights
from mmrec.features.encoders.positions import stretch_positions
from mmrec.features.encoders.registry import load_encoder
from mmrec.features.errors import InputError

VISION = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1}
SHORT, LONG = "a red mug", " ".join(f"mug number {n} is red" for n in range(30))


def write_clip(folder: Path, context: int = 77, width: int = 32, **text: Any) -> tuple[Any, str]:
    """A random CLIP saved with its config, and its encoder name; its positions differ a lot."""
    config = {
        "embed_dim": 16,
        "vision_cfg": VISION,
        "text_cfg": {"context_length": context, "width": width, "heads": 2, "layers": 2, **text},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    model.positional_embedding.data.normal_()
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, folder / "clip.safetensors")
    return model, f"open_clip:small/{folder / 'clip.safetensors'}"


def write_long_clip(folder: Path) -> tuple[Tensor, Tensor, str]:
    """The same in Long-CLIP's layout: both tables of positions, and the encoder's name."""
    model, _ = write_clip(folder, context=248)
    state = {name: t.contiguous() for name, t in model.state_dict().items()}
    state["positional_embedding_res"] = torch.randn_like(state["positional_embedding"])
    save_file(state, folder / "longclip.safetensors")
    tables = state["positional_embedding"], state["positional_embedding_res"]
    return *tables, f"longclip:small/{folder / 'longclip.safetensors'}"


def test_77_positions_become_248_and_keep_what_clip_knows() -> None:
    positions = torch.arange(77.0)[:, None] ** 2  # the last step is 76^2 - 75^2 = 151
    stretched = stretch_positions(positions, 248)[:, 0].tolist()
    assert stretched[:21] == [n**2 for n in range(21)]
    assert stretched[20:25] == [400, 410.25, 420.5, 430.75, 441]  # 20^2 to 21^2 in quarters
    assert stretched[244:] == [76**2 + quarter * 151 for quarter in (0, 0.25, 0.5, 0.75)]


def test_other_lengths_use_the_smallest_whole_factor() -> None:
    positions = torch.arange(77.0)[:, None]
    assert stretch_positions(positions, 100)[-1].item() == 20 + 79 / 2
    assert stretch_positions(positions, 134)[-1].item() == 76.5
    assert stretch_positions(positions, 77).equal(positions)


@pytest.mark.parametrize("width", [32, 48])
def test_a_stretched_clip_reads_248_tokens(tmp_path: Path, width: int) -> None:
    model, name = write_clip(tmp_path, width=width)
    plain, long = load_encoder(name, device="cpu"), load_encoder(name, "fp32", "cpu", 248)
    short, ids = long.tokenize(SHORT), long.tokenize(LONG)
    assert (plain.content_length, long.content_length, long.context_length) == (75, 246, 248)
    assert 100 < len(ids) <= 246

    np.testing.assert_array_equal(long.encode_tokens([short]), plain.encode_tokens([short]))
    expected = reference(model, long.context_length, LONG)
    np.testing.assert_allclose(long.encode_tokens([ids])[0], expected, atol=1e-5)
    assert abs(long.encode_tokens([ids]) - long.encode_tokens([ids[:-1]])).max() > 1e-4  # the end counts


def reference(model: Any, length: int, text: str) -> np.ndarray:
    """open_clip's own text tower with a longer table and mask, padded to the whole context."""
    with torch.no_grad():
        rows = torch.stack([position_at(model.positional_embedding, n) for n in range(length)])
        model.positional_embedding = torch.nn.Parameter(rows)
        model.attn_mask = torch.full((length, length), float("-inf")).triu(1)
        ids = open_clip.SimpleTokenizer(context_length=length)(text)
        return F.normalize(model.encode_text(ids), dim=-1)[0].numpy()


def position_at(table: Tensor, n: int) -> Tensor:
    if n < 20:
        return table[n]
    whole, quarter = divmod(n - 20, 4)
    below = table[20 + whole]
    step = table[21 + whole] - below if whole < 56 else below - table[19 + whole]
    return below + step * quarter / 4


def test_the_identity_and_the_fingerprint_follow_the_context(tmp_path: Path) -> None:
    _, name = write_clip(tmp_path)
    plain, long, raw = (
        load_encoder(name, "fp32", "cpu", context, normalise)
        for context, normalise in ((None, True), (248, True), (None, False))
    )
    assert plain.identity != long.identity and plain.identity != raw.identity
    assert plain.identity == load_encoder(name, "fp32", "cpu", 77).identity
    prints = [encoder_fingerprint(name, "fp32", *given) for given in ((), (248,), (None, False))]
    assert all(prints.count(one) == 1 for one in prints)


def test_without_normalising_vectors_keep_their_norms(tmp_path: Path) -> None:
    _, name = write_clip(tmp_path)
    unit, raw = (load_encoder(name, "fp32", "cpu", None, normalise) for normalise in (True, False))
    windows = [unit.tokenize(SHORT), unit.tokenize("lamp")]
    rows = raw.encode_tokens(windows)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    assert abs(norms - 1).min() > 0.01
    np.testing.assert_allclose(rows / norms, unit.encode_tokens(windows), atol=1e-6)


@pytest.mark.parametrize(
    ("context", "length", "message"),
    [(77, 60, "takes 77 tokens"), (21, 248, "cannot be stretched")],
)
def test_a_context_that_cannot_be_had_is_refused(tmp_path: Path, context: int, length: int, message) -> None:
    _, name = write_clip(tmp_path, context=context)
    with pytest.raises(InputError, match=message):
        load_encoder(name, "fp32", "cpu", length)


def test_only_causal_towers_are_stretched(tmp_path: Path) -> None:
    _, name = write_clip(tmp_path, no_causal_mask=True)
    with pytest.raises(InputError, match="not CLIP's causal one"):
        load_encoder(name, "fp32", "cpu", 248)


def test_long_clip_reads_20_positions_of_one_table_and_the_others_of_the_second(tmp_path: Path) -> None:
    own, trained, name = write_long_clip(tmp_path)
    encoder = load_encoder(name, device="cpu")
    assert encoder.context_length == 248
    assert encoder.identity["architecture"]["quick_gelu"] is True

    merged = clip_weights({"positional_embedding": own, "positional_embedding_res": trained})
    assert merged["positional_embedding"].equal(torch.cat([own[:20], trained[20:]]))
    config = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]
    plain = open_clip.CLIP(**config, quick_gelu=True).eval()
    state = open_clip.factory.load_state_dict(str(tmp_path / "clip.safetensors"))
    plain.load_state_dict({**state, **merged})
    with torch.no_grad():
        expected = F.normalize(
            plain.encode_text(open_clip.SimpleTokenizer(context_length=248)(LONG)), dim=-1
        ).numpy()
    np.testing.assert_allclose(encoder.encode_tokens([encoder.tokenize(LONG)]), expected, atol=1e-5)


def test_a_long_clip_under_the_name_of_open_clip_says_its_own(tmp_path: Path) -> None:
    _, _, name = write_long_clip(tmp_path)
    with pytest.raises(InputError, match=r"is a Long-CLIP; name it 'longclip:small/.*longclip.safetensors'"):
        load_encoder(name.replace("longclip:", "open_clip:"), device="cpu")


def test_a_clip_under_the_name_of_long_clip_is_refused(tmp_path: Path) -> None:
    _, name = write_clip(tmp_path)
    with pytest.raises(InputError, match=r"holds no weights of small.*positional_embedding_res"):
        load_encoder(name.replace("open_clip:", "longclip:"), device="cpu")


def test_a_long_clip_is_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="longclip:ViT-L-14/path/to"):
        load_encoder("longclip:ViT-L-14")
    with pytest.raises(FileNotFoundError, match="Long-CLIP ViT-L-14"):
        load_encoder(f"longclip:ViT-L-14/{tmp_path}/longclip-L.pt")


@pytest.mark.parametrize(
    ("architecture", "embed", "layers", "width", "patch", "text_width"),
    [("ViT-B-16", 512, 12, 768, 16, 512), ("ViT-L-14", 768, 24, 1024, 14, 768)],
)
def test_the_official_keys_and_shapes_load(
    architecture: str, embed: int, layers: int, width: int, patch: int, text_width: int
) -> None:
    with torch.device("meta"):
        official = official_state(embed, layers, width, patch, text_width)
        config: Any = open_clip.get_model_config(architecture)
        config["text_cfg"]["context_length"] = 248
        model = open_clip.CLIP(**config, quick_gelu=True)
    model.load_state_dict(clip_weights(official), assign=True)  # strict: raises for any other key or shape


def official_state(embed: int, layers: int, width: int, patch: int, text_width: int) -> dict[str, Tensor]:
    """The official layout, from the parameters that the method's notes list; on the current device."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (248, text_width),
        "positional_embedding_res": (248, text_width),
        "text_projection": (text_width, embed),
        "logit_scale": (),
        "token_embedding.weight": (49_408, text_width),
        "ln_final.weight": (text_width,),
        "ln_final.bias": (text_width,),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (1 + (224 // patch) ** 2, width),
        "visual.proj": (width, embed),
        "visual.conv1.weight": (width, 3, patch, patch),
    }
    for norm in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{norm}.weight": (width,), f"visual.{norm}.bias": (width,)}
    for prefix, depth, d in (("visual.", layers, width), ("", 12, text_width)):
        for block in (f"{prefix}transformer.resblocks.{n}." for n in range(depth)):
            shapes |= {f"{block}attn.in_proj_weight": (3 * d, d), f"{block}attn.in_proj_bias": (3 * d,)}
            shapes |= {f"{block}attn.out_proj.weight": (d, d), f"{block}attn.out_proj.bias": (d,)}
            shapes |= {f"{block}mlp.c_fc.weight": (4 * d, d), f"{block}mlp.c_fc.bias": (4 * d,)}
            shapes |= {f"{block}mlp.c_proj.weight": (d, 4 * d), f"{block}mlp.c_proj.bias": (d,)}
            shapes |= {f"{block}ln_{n}.{part}": (d,) for n in (1, 2) for part in ("weight", "bias")}
    return {name: torch.empty(shape) for name, shape in shapes.items()}
