"""The package's own rules: what is shipped, and which part may import which."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("pipeline", "stages", "features", "recsys")
MAY_IMPORT = {
    "pipeline": set(PARTS),
    "stages": {"stages", "features", "recsys"},
    "features": {"features"},
    "recsys": {"recsys"},
}


def modules() -> list[Path]:
    return [path for part in PARTS for path in sorted((ROOT / part).rglob("*.py"))]


def test_every_package_on_disk_is_shipped() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in modules()}
    assert set(listed) == {"mmrec"} | {"mmrec." + ".".join(folder.parts) for folder in folders}
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)


def test_the_root_ships_no_other_module() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "cli.py"}


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(module: Path) -> None:
    parts = module.relative_to(ROOT).parts
    package = parts[:-1]
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = (*base, *(node.module or "").split("."))
            assert target[0] in MAY_IMPORT[parts[0]], f"line {node.lineno} imports {'.'.join(target)}"
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            assert not any(name.split(".")[0] == "mmrec" for name in names), (
                f"line {node.lineno}: absolute import"
            )


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from mmrec import cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "open_clip", "faiss", "polars", "pyarrow", "numpy"} & set(loaded)
