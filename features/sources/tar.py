"""Where the members of a tar archive lie: ustar, pax and GNU headers, read by seeking from one to the next.

Python's own tarfile keeps every header in memory, takes sizes on trust, and waits for ever on some that are
negative; here a header is believed as far as the file reaches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ..errors import InputError

_BLOCK = 512
_MAX_EXTENSION = 2**20  # bytes of long names and pax records before one member
_REGULAR = b"\x00", b"0", b"7"
_NO_CONTENT = b"1", b"2", b"3", b"4", b"5", b"6"  # links, devices, folders, pipes
_LINKS_AND_DEVICES = b"1", b"2", b"3", b"4", b"6"
_LONG_NAME, _PAX, _SPARSE = b"L", (b"x", b"X"), b"S"


class Member(NamedTuple):
    """A file in an archive, or what stands for one there."""

    name: str
    offset: int  # of the content in the archive
    size: int | None  # None: a link or a device, which has no content of its own


def read_members(file: BinaryIO, where: str) -> Iterator[Member]:
    """The members of the archive in its order, without folders; `file` may be read between two of them.

    Raises InputError for what is no archive or one that is cut off, damaged or holds sparse files.
    """
    end = file.seek(0, 2)
    position = 0
    pax: dict[str, str] = {}
    while True:
        header = _read(file, position, _BLOCK, end, where)
        if not header.strip(b"\x00"):
            return
        if not _is_sound(header):
            what = "not a tar archive" if position == 0 else f"damaged at byte {position}"
            raise InputError(f"{where}: {what}; pack it again, or leave it out of catalog.items")
        position += _BLOCK
        kind = header[156:157]
        extends = kind == _LONG_NAME or kind in _PAX
        size = _size(header[124:136], None if extends else pax.get("size"), where, position)
        if extends:
            if size > _MAX_EXTENSION:
                raise InputError(f"{where}: damaged at byte {position}: a name of {size} bytes")
            content = _read(file, position, size, end, where)
            pax |= {"path": _text(content)} if kind == _LONG_NAME else _records(content, where, position)
        elif kind == _SPARSE or any(key.startswith("GNU.sparse") for key in pax):
            raise InputError(f"{where}: holds sparse files; pack it again without --sparse")
        else:
            name = pax.get("path") or _name(header)
            if kind in _LINKS_AND_DEVICES:
                yield Member(name, position, None)
            elif kind in _REGULAR and not name.endswith("/"):
                if position + size > end:
                    raise _cut_off(where)
                yield Member(name, position, size)
            pax = {}
        if kind not in _NO_CONTENT:
            position += -(-size // _BLOCK) * _BLOCK


def _read(file: BinaryIO, position: int, size: int, end: int, where: str) -> bytes:
    if position + size > end:
        raise _cut_off(where)
    file.seek(position)
    return file.read(size)


def _cut_off(where: str) -> InputError:
    return InputError(f"{where}: the archive is cut off; fetch it again, or leave it out of catalog.items")


def _is_sound(header: bytes) -> bool:
    """Whether the checksum holds: the sum of all bytes, of blanks in its own place; old ones are signed."""
    try:
        expected = int(_text(header[148:156]).strip() or "0", 8)
    except ValueError:
        return False
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if total == expected:
        return True
    high = sum(byte > 127 for byte in header[:148]) + sum(byte > 127 for byte in header[156:])
    return total - 256 * high == expected


def _size(field: bytes, pax: str | None, where: str, position: int) -> int:
    """From the pax records where they have one; else octal, or binary after a byte of 128."""
    try:
        if pax is not None:
            size = int(pax)
        elif field[0] & 0x80:
            size = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:]) if field[0] == 0x80 else -1
        else:
            size = int(_text(field).strip() or "0", 8)
    except ValueError:
        size = -1
    if size < 0:
        raise InputError(f"{where}: damaged at byte {position}: a member of no possible size")
    return size


def _records(content: bytes, where: str, position: int) -> dict[str, str]:
    """pax records: "length key=value\n", where the length counts the whole record."""
    records = {}
    while content.strip(b"\x00"):
        digits, _, _ = content.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = content[len(digits) + 1 : length]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals or length > len(content):
            raise InputError(f"{where}: damaged at byte {position}: records that are not pax's")
        records[_text(key)] = _text(value)
        content = content[length:]
    return records


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    is_posix = header[257:263] == b"ustar\x00"  # GNU keeps other things in the place of the prefix
    return f"{prefix}/{name}" if is_posix and prefix else name


def _text(field: bytes) -> str:
    """Up to the first zero byte; bytes that are not UTF-8 are written out."""
    return field.partition(b"\x00")[0].decode("utf-8", "backslashreplace")
