import tomllib
from pathlib import Path

import pytest

from mmrec.pipeline.config import SECTIONS, Config, ConfigError, build_config, load_config, parse_override
from mmrec.pipeline.grid import load_grid
from mmrec.recsys.models import MODELS, model_class

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.toml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_valid(example: Path) -> None:
    if "[sweep]" in example.read_text(encoding="utf-8"):
        with pytest.raises(ConfigError, match="run it with `mmrec sweep"):
            load_config(example)
        assert all(cell.config.interactions is not None for cell in load_grid(example).cells)
    else:
        assert load_config(example).interactions is not None


def test_paths_in_the_file_start_at_its_folder_and_overrides_at_the_current_one(
    tmp_path, monkeypatch
) -> None:
    (tmp_path / "configs").mkdir()
    file = tmp_path / "configs" / "run.toml"
    file.write_text('[catalog]\nitems = "../items.csv"\n[interactions]\npath = "s3://bucket/log.parquet"\n')
    monkeypatch.chdir(tmp_path)
    config = load_config(file, ["interactions.path=log.csv", "run.output=out"])
    assert config.catalog is not None and config.interactions is not None
    assert config.catalog.items == str(tmp_path / "items.csv")
    assert config.interactions.path == str(tmp_path / "log.csv")
    assert config.output == tmp_path / "out" and config.features == tmp_path / "out" / "features"
    unchanged = load_config(file)
    assert unchanged.interactions is not None and unchanged.interactions.path == "s3://bucket/log.parquet"


@pytest.mark.parametrize("family", ["beit3", "vlmo"])
def test_the_checkpoint_of_an_encoder_is_a_path_too(tmp_path, family: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'[extract]\nencoder = "{family}:weights/large.pth"\n')
    assert load_config(file).extract.encoder == f"{family}:{tmp_path}/weights/large.pth"


def test_encoders_of_one_modality_are_paths_where_they_are_no_names(tmp_path) -> None:
    (tmp_path / "minilm").mkdir()
    file = tmp_path / "run.toml"
    for encoder, texts, resolved in (
        (
            "timm:resnet50/vit.pth",
            "sentence:minilm",
            (f"timm:resnet50/{tmp_path}/vit.pth", f"{tmp_path}/minilm"),
        ),
        ("timm:resnet50", "sentence:a/minilm", ("timm:resnet50", "a/minilm")),
        ("timm:resnet50", "sentence:./other", ("timm:resnet50", f"{tmp_path}/other")),
        ("timm:resnet50", "sentence:runs/a/text", ("timm:resnet50", f"{tmp_path}/runs/a/text")),
    ):
        tuned = f'start = "{encoder}"\ntext_start = "{texts}"'
        file.write_text(
            f'[catalog]\nitems = "items.csv"\n[extract]\nencoder = "{encoder}"\ntext_encoder = "{texts}"\n'
            f"[finetune]\n{tuned}\n"
        )
        config = load_config(file)
        expected = (resolved[0], f"sentence:{resolved[1]}")
        assert (config.extract.encoder, config.extract.text_encoder) == expected
        assert config.finetune and (config.finetune.start, config.finetune.text_start) == expected


def test_texts_of_another_space_are_not_compared_with_images(tmp_path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[extract]\ntext_encoder = "sentence:minilm"\n[fusion]\nkind = "similarity"\n')
    with pytest.raises(ConfigError, match="takes one encoder for both"):
        load_config(file)
    assert load_config(file, ["fusion.kind=mlp"]).fusion.kind == "mlp"


def test_every_mistake_is_listed_with_its_key_and_the_nearest_valid_one(tmp_path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        '[catalogue]\nitems = "x"\n[interactions]\npth = "x.csv"\n[train]\nmodle = "bpr"\ndim = "big"\n'
        '[train.lightgnc]\nn_layers = 2\n[evaluate]\nbaselines = ["eas"]\n'
    )
    with pytest.raises(ConfigError) as failure:
        load_config(file)
    lines = str(failure.value).splitlines()
    expected = {
        "catalogue: unknown section": "'catalog'",
        "interactions.pth: unknown key": "'path'",
        "interactions.path: missing": "",
        "train.modle: unknown key": "'model'",
        "train.dim:": "found 'big'",
        "train.lightgnc: unknown key": "'lightgcn'",
    }
    for start, hint in expected.items():
        assert any(f"{file}: {start}" in line and hint in line for line in lines), (start, lines)


def test_options_of_models_that_are_not_chosen_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="n_layer"):
        build_config({"train": {"model": "bpr", "lightgcn": {"n_layer": 2}}})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.dim=32", (("train", "dim"), 32)),
        ("train.model=bpr", (("train", "model"), "bpr")),
        ("evaluate.k=[1, 2]", (("evaluate", "k"), [1, 2])),
        ("train.freedom.k=5", (("train", "freedom", "k"), 5)),
    ],
)
def test_an_override_is_read_as_toml_and_else_as_a_plain_string(override: str, expected: object) -> None:
    assert parse_override(override) == expected


def test_an_override_replaces_a_table_and_a_deeper_one_adds_to_it(tmp_path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[catalog]\nitems = "i.csv"\n[extract]\ntext_views = { title = "{title}" }\n')
    assert load_config(file, ["extract.text_views={}"]).extract.text_views == {}
    views = load_config(file, ["extract.text_views.brand={brand}"]).extract.text_views
    assert views == {"title": "{title}", "brand": "{brand}"}


def test_an_empty_path_is_refused(tmp_path) -> None:
    (tmp_path / "run.toml").write_text("")
    with pytest.raises(ConfigError, match=r"run\.output"):
        load_config(tmp_path / "run.toml", ["run.output="])


@pytest.mark.parametrize("name", ["item_id", "content_hash", "similarity.title", "text.title", "image.full"])
def test_foreign_features_may_not_take_the_name_of_another_column(name: str) -> None:
    sections = {
        "catalog": {"items": "i.csv"},
        "extract": {"foreign": {name: "x.npy"}, "text_views": {"title": "{title}"}},
    }
    with pytest.raises(ConfigError, match=f"'{name}' has the name of another column"):
        build_config(sections)


@pytest.mark.parametrize("override", ["train", "dim=3", "train.=3", "train.dim"])
def test_a_malformed_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"section\.key=value"):
        parse_override(override)


def test_the_resolved_config_reads_back_as_itself() -> None:
    config = build_config({"interactions": {"path": "log.csv"}, "train": {"freedom": {"n_layers": 1}}})
    assert Config.model_validate(tomllib.loads(config.to_toml())) == config


def test_broken_toml_names_the_line(tmp_path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[train]\nmodel = \n")
    with pytest.raises(ConfigError, match="line 2"):
        load_config(file)


def test_text_views_need_a_catalogue() -> None:
    with pytest.raises(ConfigError, match=r"extract\.text_views: needs a \[catalog\]"):
        build_config({"extract": {"text_views": {"title": "{title}"}}})


def test_every_key_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    for section, model in SECTIONS.items():
        chapter = page.partition(f"## [{section}]")[2].partition("\n## ")[0]
        missing = [name for name in model.model_fields if f"`{name}`" not in chapter]
        assert not missing, f"[{section}] in docs/configuration.md lacks {missing}"


@pytest.mark.parametrize("model", MODELS)
def test_every_option_of_a_model_is_documented(model: str) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    chapter = page.partition(f"### [train.{model}]")[2].partition("\n#")[0]
    missing = [name for name in model_class(model).Options.model_fields if f"`{name}`" not in chapter]
    assert not missing, f"[train.{model}] in docs/configuration.md lacks {missing}"
