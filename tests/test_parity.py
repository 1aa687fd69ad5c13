"""Golden numbers of the official implementations, through the command that people run."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file, save_file


def load() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "mmrec_parity", Path(__file__).with_name("parity.py")
    )
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(Path(__file__).parent))  # where a script finds its neighbours
    try:
        specification.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


parity = load()


def test_all_fixtures_are_within_tolerance(shared: Path, capsys) -> None:
    assert parity.main([str(shared / "parity")]) == 0
    lines = capsys.readouterr().out.splitlines()
    checked = {line.split()[0] for line in lines if "not implemented" not in line}
    models = {
        "bpr",
        "lightgcn",
        "vbpr",
        "vbpr_visual_only",
        "freedom",
        "freedom_edgedrop",
        "freedom_text_only",
    }
    assert checked >= {f"recsys/{model}" for model in models} | {
        "beit3/beit3_retrieval",
        "cliper/fusion",
        "longclip/longclip",
        "metrics/metrics",
        "vlmo/vlmo_abs",
        "vlmo/vlmo_rel",
    }


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("out/loss", "out/loss"),
        ("grad/u_embedding", "grad of user.weight"),
        ("train3/scores", "train3/scores"),
    ],
)
def test_a_wrong_number_fails(shared: Path, tmp_path: Path, capsys, tensor: str, message: str) -> None:
    folder = tmp_path / "recsys"
    folder.mkdir()
    for name in ("data.safetensors", "vbpr.json"):
        shutil.copyfile(shared / "parity" / "recsys" / name, folder / name)
    golden = load_file(shared / "parity" / "recsys" / "vbpr.safetensors")
    golden[tensor] = golden[tensor] + 1e-4
    save_file(golden, folder / "vbpr.safetensors")
    assert parity.main([str(tmp_path), "--only", "recsys/vbpr*"]) == 1
    line = capsys.readouterr().out
    assert "FAILED" in line
    assert message in line


def test_a_folder_without_fixtures_is_a_usage_error(tmp_path: Path, capsys) -> None:
    assert parity.main([str(tmp_path)]) == 2
    assert "no fixture matches" in capsys.readouterr().out
