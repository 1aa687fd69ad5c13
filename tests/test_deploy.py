"""What schedulers read: every command in it is one that mmrec has, and every file passes its own tool."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from mmrec.cli import app

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"


def yaml_documents(path: Path) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def pods() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every job with its pod."""
    found = []
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml_documents(path):
            spec = document["spec"]
            job = spec["jobTemplate"]["spec"] if document["kind"] == "CronJob" else spec
            found.append((job, job["template"]["spec"]))
    assert len(found) == 3
    return found


def commands() -> list[list[str]]:
    """The arguments of every call of mmrec in the files."""
    found = [pod["containers"][0]["args"] for _, pod in pods()]
    for name in ("slurm/extract.sbatch", "systemd/mmrec.service"):
        text = (DEPLOY / name).read_text(encoding="utf-8")
        found += [shlex.split(call) for call in re.findall(r"(?:exec |/bin/)mmrec (.+)", text)]
    tree = ast.parse((DEPLOY / "airflow/mmrec_nightly.py").read_text(encoding="utf-8"))
    scripts = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    found += [shlex.split(call[:-1].replace("{CONFIG}", "c")) for call in _calls(scripts)]
    assert len(found) == 7
    return found


def _calls(scripts: list[str]) -> list[str]:
    return [match[1] for script in scripts if (match := re.search(r"exec mmrec (.+)", script))]


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_is_one_that_mmrec_has(arguments: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    name = next(argument for argument in arguments if argument in group.commands)
    own = arguments[arguments.index(name) + 1 :]
    with group.make_context("mmrec", list(arguments)) as context:  # both raise for options that there are not
        group.commands[name].make_context(name, own, parent=context)


def test_codes_that_nothing_mends_end_a_job_of_kubernetes() -> None:
    for job, pod in pods():
        for rule in job.get("podFailurePolicy", {}).get("rules", []):
            codes = set(rule.get("onExitCodes", {}).get("values", []))
            assert codes <= {2, 3, 4, 5, 6}, "what passes is tried again"
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def test_kubernetes_knows_every_key_of_its_files() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml_documents(path):
            validate.validate(document, validate.latest_version(), strict=True)


def tool(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent.as_posix())
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.mark.parametrize(
    ("name", "file"), [("hadolint", "Dockerfile"), ("shellcheck", "slurm/extract.sbatch")]
)
def test_linters_find_nothing(name: str, file: str) -> None:
    done = subprocess.run([tool(name), str(DEPLOY / file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_knows_every_key_of_its_units(tmp_path: Path) -> None:
    """In a root of its own, where the program is."""
    analyze, system = tool("systemd-analyze"), Path("/lib/systemd/system")
    if not system.is_dir():
        pytest.skip("systemd has no units here")
    shutil.copytree(system, tmp_path / "lib/systemd/system", symlinks=True)
    program = tmp_path / "opt/mmrec/bin/mmrec"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for unit in (DEPLOY / "systemd").iterdir():
        shutil.copy(unit, units)
    names = [f"/etc/systemd/system/{unit.name}" for unit in (DEPLOY / "systemd").iterdir()]
    done = subprocess.run(
        [analyze, "verify", f"--root={tmp_path}", *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
