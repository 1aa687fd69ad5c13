import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest

from mmrec.features.catalog import Catalog, read_catalog
from mmrec.features.config import CatalogConfig
from mmrec.features.errors import ImageFailure, InputError
from mmrec.features.sources.reading import ImageReader
from mmrec.features.sources.shards import split_name


def tar(files: Mapping[str, object], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of name -> bytes, a JSON object, or a ready-made header."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
        for name, value in files.items():
            if isinstance(value, tarfile.TarInfo):
                archive.addfile(value)
                continue
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return packed.getvalue()


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, "/etc/passwd"
    return header


def catalog(items: object, **keys: Any) -> Catalog:
    return read_catalog(CatalogConfig(items=str(items), **keys))


def contents(read: Catalog) -> list[list[bytes]]:
    reader = ImageReader(read.image_root, read.reading, max_bytes=10_000)
    return [[reader.read(reference) for reference in references] for references in read.images]


def test_samples_become_items_with_fields_texts_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "001.tar").write_bytes(tar({"c.txt": b"a blue mug\n", "c.gif": b"GIF", "c.npy": b"left out"}))
    (tmp_path / "000.tar").write_bytes(
        tar(
            {
                "a.jpg": b"first",
                "a.json": {"title": "Mug", "price": 2.5, "tags": ["x"]},
                "b.front.JPG": b"front",
                "b.back.png": b"back",
                "b.json": {"title": None, "price": float("nan")},
            }
        )
    )
    for items in (tmp_path, tmp_path / "*.tar", tmp_path / "{000..001}.tar"):
        read = catalog(items)
        assert read.item_ids.to_list() == ["a", "b", "c"]
        assert read.fields.to_dict(as_series=False) == {
            "title": ["Mug", None, None],
            "price": [2.5, None, None],
            "tags": [["x"], None, None],
            "text": [None, None, "a blue mug"],
        }
        assert contents(read) == [[b"first"], [b"front", b"back"], [b"GIF"]]
        assert contents(read.slice(1, 3)) == [[b"front", b"back"], [b"GIF"]]
    assert contents(catalog(tmp_path, image="back.png")) == [[], [b"back"], []]
    with pytest.raises(InputError, match=r"no column 'jpeg' \(did you mean 'jpg'\?\); found 'title'"):
        catalog(tmp_path, image="jpeg")


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["7", "12"], [7, 12]), (["007", "012"], ["007", "012"]), (["7", "b"], ["7", "b"])],
)
def test_keys_are_numbers_as_ids_of_a_csv_are(
    tmp_path: Path, names: list[str], expected: list[object]
) -> None:
    (tmp_path / "a.tar").write_bytes(tar({f"{name}.jpg": b"x" for name in names}))
    assert catalog(tmp_path / "a.tar").item_ids.to_list() == expected


def test_a_field_may_be_the_id_and_another_the_picture(tmp_path: Path) -> None:
    fields = {"sku": "S1", "item_id": 5, "picture": "a.jpg"}
    (tmp_path / "s.tar").write_bytes(tar({"a.json": fields, "a.jpg": b"packed"}))
    (tmp_path / "a.jpg").write_bytes(b"beside the shard")
    assert catalog(tmp_path).item_ids.to_list() == [5]
    by_sku = catalog(tmp_path, item_id="sku", image="picture")
    assert by_sku.item_ids.to_list() == ["S1"]
    assert by_sku.fields.columns == ["item_id"]
    assert contents(by_sku) == [[b"beside the shard"]]
    with pytest.raises(InputError, match="no column 'id'"):
        catalog(tmp_path, item_id="id")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_dialect(tmp_path: Path, form: int) -> None:
    name = "folder" * 20 + "/" + "n" * 90 if form == tarfile.USTAR_FORMAT else "d/" * 200 + "n" * 300
    files = {f"{name}.jpg": b"long", "after.jpg": b"after", **({"ü.jpg": b"u"} if form else {})}
    (tmp_path / "a.tar").write_bytes(tar(files, form))
    read = catalog(tmp_path)
    assert read.item_ids.to_list() == [key.removesuffix(".jpg") for key in files]
    assert contents(read) == [[content] for content in files.values()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b.jpg", ("a", "b.jpg")),
        ("./x/a.JPG", ("x/a", "jpg")),
        ("v1.2/a.jpg", ("v1.2/a", "jpg")),
        ("../../etc/passwd.jpg", ("../../etc/passwd", "jpg")),
        ("/etc/passwd.jpg", ("/etc/passwd", "jpg")),
        ("x/._a.jpg", ("", "")),
        ("README", ("", "")),
    ],
)
def test_names_are_cut_at_the_first_dot_and_are_only_keys(name: str, expected: tuple[str, str]) -> None:
    assert split_name(name) == expected


def test_links_devices_and_folders_are_never_followed(tmp_path: Path) -> None:
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
    files: dict[str, object] = {f"{n}x.jpg": special(f"{n}x.jpg", kind) for n, kind in enumerate(kinds)}
    files |= {"folder.jpg": special("folder.jpg", tarfile.DIRTYPE), "/etc/passwd.jpg": b"mine"}
    (tmp_path / "a.tar").write_bytes(tar(files))
    read = catalog(tmp_path)
    assert read.item_ids.to_list() == ["0x", "1x", "2x", "3x", "/etc/passwd"]
    for references in read.images[:4]:
        with pytest.raises(ImageFailure, match="a link"):
            contents(read.slice(0, 1))
        assert len(references) == 1
    assert contents(read.slice(4, 5)) == [[b"mine"]]
    (tmp_path / "a.tar").write_bytes(tar({"a.json": special("a.json", tarfile.SYMTYPE)}))
    with pytest.raises(InputError, match=r"a.tar: 'a.json' is a link"):
        catalog(tmp_path)


def test_names_that_occur_twice_are_named(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar({"a.jpg": b"1", "b.jpg": b"2"}))
    (tmp_path / "1.tar").write_bytes(tar({"b.jpg": b"3", "c.jpg": b"4"}))
    with pytest.raises(InputError, match=r"1 ids occur more than once \(first: 'b'\)"):
        catalog(tmp_path)
    (tmp_path / "1.tar").write_bytes(tar({"b.jpg": b"3", "./b.JPG": b"4"}))
    with pytest.raises(InputError, match=r"1.tar: 1 names occur more than once \(first: 'b.jpg'\)"):
        catalog(tmp_path)


def test_an_archive_that_is_cut_anywhere_is_an_error_that_names_it(tmp_path: Path) -> None:
    whole = tar({"a.jpg": b"x" * 700, "n" * 200 + ".json": {"title": "long"}, "b.jpg": b"y" * 100})
    end = len(whole.rstrip(b"\x00"))
    for size in [*range(0, end, 97), end - 1]:
        (tmp_path / "a.tar").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"a\.tar: "):
            catalog(tmp_path)


def damaged(**changes: bytes) -> bytes:
    """The archive of one picture, with other bytes in its header and the checksum to them."""
    packed = bytearray(tar({"a.jpg": b"x"}, tarfile.GNU_FORMAT))
    for place, value in changes.items():
        start = {"size": 124, "kind": 156, "checksum": 148}[place]
        packed[start : start + len(value)] = value
    if "checksum" not in changes:
        packed[148:156] = b" " * 8
        packed[148:156] = b"%06o\0 " % sum(packed[:512])
    return bytes(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off"),
        (b"\x00" * 1024, "no samples"),
        (b"PK\x03\x04" * 256, "not a tar archive"),
        (damaged(checksum=b"0000000\0"), "not a tar archive"),
        (damaged(size=b"77777777777\0"), "cut off"),  # 8 GiB of a file of 10 KiB
        (damaged(size=b"\x80" + b"\xff" * 11), "cut off"),
        (damaged(size=b"\xff" * 12), "no possible size"),  # -1
        (damaged(size=b"-0000000001\0"), "no possible size"),
        (damaged(size=b"nonsense....\0"), "no possible size"),
        (damaged(kind=b"S"), "sparse"),
        (damaged(kind=b"L", size=b"00007777777\0"), "a name of"),
        (damaged(kind=b"x"), "not pax"),
        (tar({"a.json": [1]}), r"a\.json': holds a list"),
        (tar({"a.json": b"{nonsense"}), r"a\.json': unusable JSON"),
        (tar({"a.json": b"[" * 100_000}), r"a\.json': unusable JSON"),
        (tar({"a.json": b'{"title": "\\ud800"}'}), "the .json of 'a' is not Unicode"),
        (tar({"a.json": b'{"x":' * 900 + b"1" + b"}" * 900}), "nested more than 64 levels"),
        (tar({"a.txt": b"\xff\xfe"}), r"a\.txt': not UTF-8"),
        (tar({"a.json": {"x": [1]}, "b.json": {"x": 1}}), "do not fit together"),
        (tar({"README": b"nothing here"}), "no samples"),
    ],
)
def test_hostile_archives_are_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        catalog(tmp_path)
    assert "a.tar" in str(caught.value) and "\n" not in str(caught.value)


def test_what_names_no_shards(tmp_path: Path) -> None:
    (tmp_path / "000.tar").write_bytes(tar({"a.jpg": b"x"}))
    with pytest.raises(FileNotFoundError, match=r"2 of 3 files are missing \(first: .*001.tar\)"):
        catalog(tmp_path / "{000..002}.tar")
    with pytest.raises(InputError, match="no series"):
        catalog(tmp_path / "{5..1}.tar")
    (tmp_path / "b.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match="compressed archive"):
        catalog(tmp_path / "b.tar.gz")
    with pytest.raises(FileNotFoundError, match="no such file"):
        catalog(tmp_path / "none.tar")
    (tmp_path / "items.csv").write_text("item_id\n5\n")
    assert catalog(tmp_path).item_ids.to_list() == [5]  # a folder with a table is that table's


def test_shards_of_a_store_and_pictures_past_the_limit() -> None:
    with fsspec.open("memory://shards/000.tar", "wb") as file:
        file.write(tar({"a.jpg": b"remote", "b.jpg": b"x" * 10_001}))  # pyright: ignore
    read = catalog("memory://shards/{000..000}.tar")
    assert contents(read.slice(0, 1)) == [[b"remote"]]
    with pytest.raises(ImageFailure, match="too_large"):
        contents(read.slice(1, 2))


def test_a_shard_that_changes_while_the_job_runs_fails_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar({"a.jpg": b"x" * 1000}))
    read = catalog(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"x" * 600)
    with pytest.raises(ImageFailure, match="truncated"):
        contents(read)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(ImageFailure, match="missing"):
        contents(read)
