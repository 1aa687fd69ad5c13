import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.features.errors import InputError
from mmrec.pipeline.config import load_config
from mmrec.pipeline.exchange import export_run, import_data, parse_views
from mmrec.pipeline.run import run
from mmrec.stages.exchange.formats import READERS, WRITERS
from mmrec.stages.exchange.names import ExportFormat, ImportFormat

TOOLBOX = ImportFormat.toolbox


def peer(folder: Path) -> Path:
    """Twelve users and eight items as the toolbox has them."""
    rows = [(u, (u + t * (1 + 2 * (u % 3))) % 8, (0, 0, 0, 1, 2)[t]) for u in range(12) for t in range(5)]
    lines = [f"{user}\t{item}\t{label}" for user, item, label in rows]
    folder.mkdir()
    (folder / "shop.inter").write_text("\n".join(["userID\titemID\tx_label", *lines]) + "\n")
    matrix = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float16)
    np.save(folder / "image_feat.npy", matrix.astype(np.float32))
    return folder


def test_every_format_has_its_code() -> None:
    assert set(READERS) == set(ImportFormat) and set(WRITERS) == set(ExportFormat)


def test_a_set_is_imported_run_and_exported_from_the_command_line(tmp_path) -> None:
    def command(*words: str) -> str:
        result = CliRunner().invoke(app, [*words])
        assert result.exit_code == 0, result.output
        return result.stdout

    folder, out = tmp_path / "imported", tmp_path / "dataset" / "shop"
    command("import", "mmrec-toolbox", str(peer(tmp_path / "shop")), "-o", str(folder))
    settings = [
        "train.epochs=1",
        "train.dim=4",
        "evaluate.bootstrap=10",
        "evaluate.k=[2]",
        "train.metric=recall@2",
    ]
    command("run", "-c", str(folder / "config.toml"), *(word for key in settings for word in ("--set", key)))
    facts = json.loads(command("export", "mmrec-toolbox", str(folder / "run"), "-o", str(out), "--json"))
    assert {"shop.inter", "image_feat.npy", "mmrec.json"} <= set(facts["export"]["files"])
    for file in ("shop.inter", "image_feat.npy"):
        ours, theirs = ((where / file).read_bytes() for where in (out, tmp_path / "shop"))
        assert sorted(ours.splitlines()) == sorted(theirs.splitlines())


def test_an_import_is_brought_up_to_date_but_an_edited_config_stays(tmp_path) -> None:
    folder = tmp_path / "imported"
    import_data(TOOLBOX, peer(tmp_path / "shop"), folder)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace("freedom", "vbpr"))
    with (tmp_path / "shop" / "shop.inter").open("a") as log:
        log.write("99\t0\t0\n")
    facts = import_data(TOOLBOX, tmp_path / "shop", folder).facts
    assert facts["import"]["rows"]["interactions"] == 61 and load_config(config).train.model == "vbpr"


def test_a_failed_import_changes_nothing(tmp_path) -> None:
    folder, shop = tmp_path / "imported", peer(tmp_path / "shop")
    import_data(TOOLBOX, shop, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (shop / "image_feat.npy").write_bytes(b"not a matrix")
    with pytest.raises(InputError, match=r"image_feat\.npy"):
        import_data(TOOLBOX, shop, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_folders_of_others_are_left_alone(tmp_path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds 'thesis\.tex' and is no earlier import"):
        import_data(TOOLBOX, peer(tmp_path / "shop"), home)
    import_data(TOOLBOX, tmp_path / "shop", tmp_path / "imported")
    with pytest.raises(FileNotFoundError, match="no run folder"):
        export_run(ExportFormat.toolbox, tmp_path / "shop", home)
    assert [path.name for path in home.iterdir()] == ["thesis.tex"]


def test_views_are_named_for_the_other_side() -> None:
    assert parse_views(["image=image.full", "visual"]) == {"image": "image.full", "visual": "visual"}
    with pytest.raises(InputError, match="--view =x: expected NAME=VIEW"):
        parse_views(["=x"])


def test_an_export_of_interactions_that_have_changed_since_is_refused(tmp_path) -> None:
    import_data(TOOLBOX, peer(tmp_path / "shop"), tmp_path / "in")
    settings = ["train.model=popularity", "evaluate.bootstrap=0", "evaluate.k=[2]", "train.metric=recall@2"]
    run(load_config(tmp_path / "in" / "config.toml", settings))
    with (tmp_path / "shop" / "shop.inter").open("a") as log:
        log.write("0\t7\t0\n")
    import_data(TOOLBOX, tmp_path / "shop", tmp_path / "in")
    with pytest.raises(InputError, match="was trained on other interactions"):
        export_run(ExportFormat.toolbox, tmp_path / "in" / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
