"""The account of an artefact's files."""

from pathlib import Path

from mmrec.features.files import write_json
from mmrec.stages.lineage import file_sizes, read_lineage


def test_an_artefact_is_whole_only_with_what_its_folders_hold(tmp_path: Path) -> None:
    inner = tmp_path / "1_Pooling" / "config.json"
    inner.parent.mkdir()
    inner.write_text("{}")
    (tmp_path / "weights").write_bytes(b"abc")
    sizes = file_sizes(tmp_path.iterdir())
    assert sizes == {"weights": 3, "1_Pooling/config.json": 2}
    write_json(tmp_path / "account.json", {"files": sizes, "lineage": {"code": "1"}})
    assert read_lineage(tmp_path / "account.json", "lineage") == {"code": "1"}
    inner.unlink()
    assert read_lineage(tmp_path / "account.json", "lineage") is None
