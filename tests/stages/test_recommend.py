"""Lists from a small bundle: what is in them, compared with a sort of all scores."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from mmrec.features.errors import InputError
from mmrec.features.files import write_json
from mmrec.features.manifest import sealed
from mmrec.features.store import FeatureStoreWriter, ShardRows
from mmrec.pipeline.recommendation import open_folder
from mmrec.recsys.models.base import Vectors
from mmrec.stages.bundle import write_bundle
from mmrec.stages.published import ACCOUNT, CATALOG, SCHEMA, SEEN
from mmrec.stages.recommend import run
from mmrec.stages.recommend.run import Request, recommend

USERS, ITEMS, DIM = 23, 40, 6
CATEGORIES = ["shoes", "hats", None]


def ids(kind: str, n: int, name: str) -> pl.Series:
    return pl.Series(name, [100 + 7 * i if kind == "integers" else f"{name[0]}{i:03d}" for i in range(n)])


def write_fake_bundle(folder: Path, users, items: np.ndarray, kind: str = "strings") -> pl.DataFrame:
    """A published bundle of these vectors; returns what users had: each the items u, u + 1, ... up to 4."""
    user_ids, item_ids = ids(kind, users.shape[0], "user_id"), ids(kind, len(items), "item_id")
    folder.mkdir()
    facts = {"model": "fake", "dim": items.shape[1], "views": []}
    write_bundle(folder / "model", facts, {}, {}, (user_ids, item_ids), Vectors(users, items))
    had = [(u, (u + n) % len(items)) for u in range(users.shape[0]) for n in range(u % 5)]
    seen = pl.DataFrame(
        {"user_id": user_ids.gather([u for u, _ in had]), "item_id": item_ids.gather([i for _, i in had])}
    )
    seen.write_parquet(folder / SEEN)
    pl.DataFrame(
        {
            "item_id": item_ids,
            "category": [CATEGORIES[i % 3] for i in range(len(items))],
            "tags": [["new", "red"] if i % 4 == 0 else ["old"] for i in range(len(items))],
            "price": [float(i % 5) for i in range(len(items))],
        }
    ).write_parquet(folder / CATALOG)
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size} for path in files}
    write_json(folder / ACCOUNT, sealed({"schema": SCHEMA, "id": "fake", "files": sizes}))
    return seen


def by_sorting(scores: np.ndarray, k: int) -> list[list[int]]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [[int(i) for i in row if np.isfinite(scores[n, i])] for n, row in enumerate(order)]


def lists_in(path: Path, key: str = "user_id", item: str = "item_id") -> dict:
    """key -> items in the order of their ranks, which must be 1, 2, ..."""
    found = {}
    for name, table in pl.read_parquet(path).partition_by(key, as_dict=True, maintain_order=True).items():
        assert table["rank"].to_list() == list(range(1, len(table) + 1))
        assert table["score"].is_sorted(descending=True)
        found[name[0]] = table[item].to_list()
    return found


@pytest.fixture
def vectors() -> tuple[np.ndarray, np.ndarray]:
    """Small integers: scores tie all the time."""
    generator = np.random.default_rng(0)
    return (
        generator.integers(-2, 3, (USERS, DIM)).astype("f4"),
        generator.integers(-2, 3, (ITEMS, DIM)).astype("f4"),
    )


@pytest.fixture
def bundle(tmp_path, vectors) -> Path:
    write_fake_bundle(tmp_path / "bundle", *vectors)
    return tmp_path / "bundle"


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "lists" / "out.parquet"


def make(bundle: Path, out: Path, **request) -> run.Report:
    return recommend(open_folder(bundle), Request(**request), out)


def expected(vectors, kind: str, k: int, allowed=lambda u, i: True, seen: bool = False) -> dict:
    scores = vectors[0] @ vectors[1].T
    for u in range(USERS):
        for i in range(ITEMS):
            had = (i - u) % ITEMS < u % 5
            if (had and not seen) or not allowed(u, i):
                scores[u, i] = -np.inf
    users, items = ids(kind, USERS, "user_id").to_list(), ids(kind, ITEMS, "item_id").to_list()
    lists = by_sorting(scores, k)
    return {users[u]: [items[i] for i in row] for u, row in enumerate(lists) if row}


@pytest.mark.parametrize("kind", ["strings", "integers"])
@pytest.mark.parametrize("k", [1, 7, 10**9])
def test_lists_equal_a_sort_of_all_scores(tmp_path, vectors, out, kind: str, k: int) -> None:
    write_fake_bundle(tmp_path / "bundle", *vectors, kind=kind)
    report = make(tmp_path / "bundle", out, k=k)
    assert lists_in(out) == expected(vectors, kind, k)
    assert report.lists == USERS and report.rows == pq.read_metadata(out).num_rows
    assert report.short == (USERS if k > ITEMS else 0) and report.empty == 0
    assert json.loads(pq.read_schema(out).metadata[b"mmrec"])["source"] == "fake"
    make(tmp_path / "bundle", out, k=k, include_seen=True)
    assert lists_in(out) == expected(vectors, kind, k, seen=True)


@pytest.mark.parametrize(("kind", "chosen"), [("strings", ["u002", "u007"]), ("integers", [114, 149])])
def test_listed_users_alone_in_the_order_of_the_model(
    vectors, out, tmp_path, kind: str, chosen: list
) -> None:
    write_fake_bundle(tmp_path / "bundle", *vectors, kind=kind)
    (tmp_path / "users.txt").write_text(f"{chosen[1]}\n\n{chosen[0]}\r\n{chosen[1]}\n")
    make(tmp_path / "bundle", out, k=3, users=tmp_path / "users.txt")
    whole = expected(vectors, kind, 3)
    assert list(lists_in(out).items()) == [(user, whole[user]) for user in chosen]


def test_allowed_and_denied_items_of_all_and_of_one(bundle, vectors, out, tmp_path) -> None:
    names = ids("strings", ITEMS, "item_id")
    allow, deny, own, one = (tmp_path / name for name in ("allow.csv", "deny.txt", "own.parquet", "one.csv"))
    pl.DataFrame({"item_id": [*names[:20], "gone"]}).write_csv(allow)
    deny.write_text("\n".join(names[::3]))
    make(bundle, out, k=9, allow=allow, deny=deny)
    assert lists_in(out) == expected(vectors, "strings", 9, lambda _, i: i < 20 and i % 3)
    pairs = [(u, i) for u in range(5) for i in range(u, 30, 2)]
    users = ids("strings", USERS, "user_id")
    pl.DataFrame(
        {"user_id": [users[u] for u, _ in pairs], "item_id": [names[i] for _, i in pairs]}
    ).write_parquet(own)
    one.write_text(f"user_id,item_id\nu003,{names[5]}\nnobody,{names[6]}\n")
    report = make(bundle, out, k=9, allow=own, deny=one)
    rule = {(u, i) for u, i in pairs} - {(3, 5)}
    assert lists_in(out) == expected(vectors, "strings", 9, lambda u, i: (u, i) in rule)
    assert report.empty == USERS - 5
    make(bundle, out, k=9, deny=one)
    assert lists_in(out) == expected(vectors, "strings", 9, lambda u, i: (u, i) != (3, 5))


def test_conditions_on_the_catalogue(bundle, vectors, out) -> None:
    for where, rule in (
        (("category = shoes",), lambda _, i: i % 3 == 0),
        (("category != shoes",), lambda _, i: i % 3 != 0),
        (("category='hats'", "price = 2"), lambda _, i: i % 3 == 1 and i % 5 == 2),
        (("tags = red",), lambda _, i: i % 4 == 0),
    ):
        make(bundle, out, k=4, where=where)
        assert lists_in(out) == expected(vectors, "strings", 4, rule)


def test_models_of_histories_take_new_users_as_they_are(tmp_path, out) -> None:
    generator = np.random.default_rng(1)
    items = generator.random((12, 12)).astype("f4")
    history = sparse.random(5, 12, 0.4, format="csr", random_state=generator, dtype=np.float32)
    write_fake_bundle(tmp_path / "bundle", history, items)
    make(tmp_path / "bundle", out, k=12, include_seen=True)
    scores = history.toarray() @ items.T
    assert [len(row) for row in lists_in(out).values()] == [12] * 5
    assert lists_in(out)["u002"][0] == f"i{scores[2].argmax():03d}"
    new = tmp_path / "new.jsonl"
    new.write_text(
        '{"user_id": 7, "item_id": ["i001", "i004", "what"]}\n{"user_id": 9, "item_id": ["what"]}\n'
    )
    report = make(tmp_path / "bundle", out, k=3, new_users=new)
    best = items[:, 1] + items[:, 4]
    best[[1, 4]] = -np.inf
    assert report.lists == 1 and lists_in(out) == {7: [f"i{i:03d}" for i in np.argsort(-best)[:3]]}
    make(tmp_path / "bundle", out, k=2, similar_items=True)
    column = items[:, 3].copy()
    column[3] = -np.inf
    assert lists_in(out, item="similar_item_id", key="item_id")["i003"] == [
        f"i{i:03d}" for i in np.argsort(-column)[:2]
    ]


def test_new_users_are_placed_by_the_map_that_trained_users_follow(tmp_path, out) -> None:
    generator = np.random.default_rng(2)
    items = generator.normal(size=(60, 4)).astype("f4")
    turn = generator.normal(size=(4, 4))
    had = np.zeros((40, 60))
    for u in range(40):
        for n in range(u % 5):
            had[u, (u + n) % 60] = 1
    means = had @ items / np.maximum(had.sum(axis=1, keepdims=True), 1)
    users = np.concatenate([means @ turn, np.ones((40, 1))], axis=1).astype("f4")  # and a bias of items
    items = np.concatenate([items, generator.normal(size=(60, 1)).astype("f4")], axis=1)
    write_fake_bundle(tmp_path / "bundle", users, items)
    (tmp_path / "new.csv").write_text("user_id,item_id\nanna,i010\nanna,i050\nu004,i030\n")
    make(tmp_path / "bundle", out, k=5, new_users=tmp_path / "new.csv")
    vector = np.append(items[[10, 50], :4].mean(axis=0) @ turn, 1)
    scores = items @ vector
    scores[[10, 50]] = -np.inf
    assert lists_in(out)["anna"] == [f"i{i:03d}" for i in np.argsort(-scores)[:5]]
    assert pl.read_parquet(out)["score"][0] == pytest.approx(scores.max(), rel=0.02)
    assert not set(lists_in(out)["u004"]) & {
        "i030",
        "i004",
        "i005",
        "i006",
        "i007",
    }  # had in the model's time


def write_store(folder: Path, item_ids: list[str], vectors: np.ndarray) -> None:
    """A feature store with the one view `image.full`; rows of NaN are missing."""
    writer = FeatureStoreWriter(folder, {})
    views = {"image.full": (np.nan_to_num(vectors), ~np.isnan(vectors[:, 0]))}
    writer.write_shard(0, ShardRows(pl.Series("item_id", item_ids), ["-"] * len(item_ids), views))
    writer.commit({"request": {}})


def test_new_items_take_part_by_their_content(bundle, vectors, out, tmp_path) -> None:
    names = ids("strings", ITEMS, "item_id").to_list()
    content = np.eye(ITEMS + 2, ITEMS, dtype="f4")  # no item is like another
    content[ITEMS], content[ITEMS + 1] = content[3], np.nan  # but for the twin of i003; one has no content
    write_store(tmp_path / "store", [*names, "twin", "blank"], content)
    report = make(bundle, out, k=60, new_items=tmp_path / "store", include_seen=True)
    assert report.new_items == 1 and report.candidates == ITEMS + 1
    for (user,), table in pl.read_parquet(out).group_by("user_id"):
        score = dict(table.select("item_id", "score").iter_rows())
        assert set(score) == {*names, "twin"} and score["twin"] == pytest.approx(score["i003"], abs=1e-5), (
            user
        )
    with pytest.raises(InputError, match="the index does not hold new items"):
        make(bundle, out, new_items=tmp_path / "store", index=True)
    write_store(tmp_path / "other", ["x", "y"], content[:2])
    with pytest.raises(InputError, match="holds none of the items that the model was trained on"):
        make(bundle, out, new_items=tmp_path / "other")


def test_neighbours_are_by_cosine_and_never_the_item_itself(bundle, vectors, out, tmp_path) -> None:
    (tmp_path / "items.txt").write_text("i004")
    make(bundle, out, k=5, similar_items=True, items=tmp_path / "items.txt", where=("price != 1",))
    unit = vectors[1] / np.maximum(np.linalg.norm(vectors[1], axis=1, keepdims=True), 1e-30)
    cosines = unit @ unit[4]
    cosines[[i for i in range(ITEMS) if i == 4 or i % 5 == 1]] = -np.inf
    found = pl.read_parquet(out)
    assert found["item_id"].unique().to_list() == ["i004"]
    assert found["score"].to_numpy() == pytest.approx(np.sort(cosines)[::-1][:5], abs=1e-6)


def test_blocks_follow_the_budget_and_change_nothing(bundle, out, monkeypatch) -> None:
    make(bundle, out, k=4)
    whole = lists_in(out)
    monkeypatch.setattr(run, "block_rows", lambda *_: 4)
    make(bundle, out, k=4)
    assert lists_in(out) == whole and pq.read_metadata(out).num_row_groups == 6


def test_block_sizes() -> None:
    for memory_mb, dim, k in ((1, 64, 20), (64, 64, 1000), (4096, 64, 20)):
        rows = run.block_rows(memory_mb, dim, k)
        assert rows == 16_384 or 0.9 < rows * (8 * dim + 96 * k) / (memory_mb * 2**18) <= 1


@pytest.mark.parametrize(
    ("content", "request_key", "said"),
    [
        (b"", "users", "has no ids"),
        (b"\xff\xfe\x00bad", "users", "not readable as text"),
        (b"u001\nnobody\n", "users", r"1 of 2 users are not in the model \(first: 'nobody'\)"),
        (b"nothing\n", "allow", "none of its items is in the model"),
        (b"name\nx\n", "new_users.csv", "no column 'item_id'"),
        (b"item_id\ni001\n", "new_users.csv", "no column 'user_id'"),
        (b"user_id,item_id\nx,nothing\n", "new_users.csv", "no user has an item of the model"),
        (b"user_id,item_id\nx,\n", "new_users.csv", "1 of 1 rows have no item_id"),
        (b"PAR1 not really", "deny.parquet", "not a readable parquet table"),
        (b"item_id\n1.5\n", "deny.csv", "holds Float64; expected ids"),
    ],
)
def test_files_that_cannot_be_used_say_why_and_leave_nothing(
    bundle, out, tmp_path, content: bytes, request_key: str, said: str
) -> None:
    key, _, suffix = request_key.partition(".")
    path = tmp_path / f"given.{suffix or 'txt'}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        make(bundle, out, **{key: path})
    assert "\n" not in str(error.value)
    assert not out.exists() and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("category", "expected 'column = value'"),
        ("categorie = hats", r"no column 'categorie' \(did you mean 'category'\?\)"),
        ("category = socks", "no item has it; there are 'shoes', 'hats'"),
        ("price = cheap", "the column holds numbers"),
    ],
)
def test_conditions_that_cannot_be_met(bundle, out, condition: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(bundle, out, where=(condition,))


def test_a_killed_job_leaves_the_old_file_and_the_next_one_tidies_up(tmp_path, out) -> None:
    generator = np.random.default_rng(3)
    users, items = generator.normal(size=(40_000, 8)), generator.normal(size=(1500, 8))
    write_fake_bundle(tmp_path / "bundle", users.astype("f4"), items.astype("f4"))
    out.parent.mkdir()
    out.write_bytes(b"old")
    command = [sys.executable, "-m", "mmrec.cli", "recommend", str(tmp_path / "bundle"), "-o", str(out)]
    process = subprocess.Popen([*command, "--memory-mb", "1"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while process.poll() is None and not any(
        path.stat().st_size > 10_000 for path in out.parent.glob(".*.tmp")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert out.read_bytes() == b"old"
    (leftover,) = out.parent.glob(".*.tmp")
    os.utime(leftover, (0, 0))
    (tmp_path / "one.txt").write_text("u000\n")
    make(tmp_path / "bundle", out, k=2, users=tmp_path / "one.txt")
    assert [path.name for path in out.parent.iterdir()] == [out.name]
