"""What a file tells of itself where its decoder only fails: what it is, and whether all of it is there."""

from __future__ import annotations

import struct

_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", _JP2, b"\xff\x4f\xff\x51")
_TIFF = {b"II*\0": "<", b"MM\0*": ">"}  # -> order of the bytes of a number
_AVIF = (b"ftypavif", b"ftypavis")
_HEIF = (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")
_SIZE_OF_AVIF = 1 << 16  # bytes among which its size stands


def is_image(content: bytes) -> bool:
    """Whether the file begins as one of the formats that are read: something is wrong with the rest."""
    if content.startswith(b"RIFF"):
        return content[8:12] == b"WEBP"
    return content.startswith((*_MAGIC, *_TIFF)) or content.startswith(_AVIF, 4)


def unread_format(content: bytes) -> str | None:
    """The name of the image format that it is in, if that is none of those that are read."""
    if content.startswith(_HEIF, 4):
        return "HEIF"
    if content.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "JPEG XL"
    return "Photoshop" if content.startswith(b"8BPS") else None


def avif_pixels(content: bytes) -> int:
    """How many an AVIF says that it has, which its decoder does not tell when they are too many; or 0."""
    at = content.find(b"ispe", 0, _SIZE_OF_AVIF) if content.startswith(_AVIF, 4) else -1
    if at < 0 or at + 16 > len(content):
        return 0
    width, height = struct.unpack_from(">II", content, at + 8)
    return width * height


def is_cut_short(content: bytes) -> bool:
    """Whether the file ends before a place that it speaks of itself."""
    try:
        return _end(content) > len(content)
    except struct.error:  # amid a number
        return True


def _end(content: bytes) -> int:
    """How many bytes the file needs at least, as far as it tells; struct.error where that is cut."""
    if content.startswith(b"RIFF") and is_image(content):
        return 8 + struct.unpack_from("<I", content, 4)[0]
    if content.startswith(tuple(_TIFF)):
        order = _TIFF[content[:4]]
        (directory,) = struct.unpack_from(f"{order}I", content, 4)
        return directory + 2 + 12 * struct.unpack_from(f"{order}H", content, directory)[0]
    if content.startswith(b"\0\0\1\0"):  # ICO
        (count,) = struct.unpack_from("<H", content, 4)
        entries = (struct.unpack_from("<II", content, 14 + 16 * number) for number in range(count))
        return max((start + size for size, start in entries), default=0)
    if content.startswith(b"GIF8"):
        flags = struct.unpack_from("B", content, 10)[0]
        return 14 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # its colours
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _end_of_chunks(content)
    if content.startswith(_JP2) or content.startswith(_AVIF, 4):
        return _end_of_boxes(content)
    return _end_of_segments(content) if content.startswith(b"\xff\xd8") else 0


def _end_of_chunks(content: bytes) -> int:
    """Of a PNG."""
    at, name = 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", content, at)
        if not name.isalpha():
            return 0
        at += 12 + length
    return at


def _end_of_boxes(content: bytes) -> int:
    """Of an AVIF or a JPEG 2000."""
    at = 0
    while at < len(content):
        size, start = struct.unpack_from(">I", content, at)[0], 8
        if size == 1:
            size, start = struct.unpack_from(">Q", content, at + 8)[0], 16
        if size < start:  # 0: up to the end of the file
            return at
        at += size
    return at


def _end_of_segments(content: bytes) -> int:
    """Of a JPEG, up to its first pixels."""
    at, marker = 2, 0
    while marker != 0xDA:
        mark, marker, length = struct.unpack_from(">BBH", content, at)
        if mark != 0xFF or marker < 0xC0:
            return 0
        at += 2 + length
    return at
