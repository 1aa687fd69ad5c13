"""Files of text: their content at hand or on the disk, and whether they are text of ours at all."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, TypeAlias

Content: TypeAlias = str | io.BytesIO  # the path of a local file, or what is in it

BOM = b"\xef\xbb\xbf"  # that some programs put before UTF-8
_HEAD = 2**16  # bytes
_FOREIGN = {  # how a file begins -> what it is
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
    b"PK\x03\x04": "a zip archive or an Excel workbook; save the table as text",
    b"\x1f\x8b": "gzip; give it a name that ends in .gz",
    b"PAR1": "Parquet; give it a name that ends in .parquet",
}


def opened(content: Content) -> AbstractContextManager[BinaryIO]:
    """The content from its start."""
    if isinstance(content, str):
        return Path(content).open("rb")
    content.seek(0)
    return nullcontext(content)


def head_of(content: Content) -> bytes:
    """How the content begins; ValueError where that is no text of ours."""
    with opened(content) as stream:
        head = stream.read(_HEAD)
    if not head:
        raise ValueError("the file is empty")
    for start, what in _FOREIGN.items():
        if head.startswith(start):
            raise ValueError(f"its content is {what}")
    if b"\r" in head and b"\n" not in head:
        raise ValueError("its lines end in CR alone; save it with LF or CR LF")
    return head


def check_utf8(content: Content) -> None:
    """ValueError that names the first line that is not UTF-8."""
    with opened(content) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"line {number}: byte {line[error.start]:#x} is not UTF-8; save it so, for example with "
                    "`iconv -f WINDOWS-1252 -t UTF-8`"
                ) from error
