"""Thrift's compact protocol as far as Parquet's metadata uses it: a struct is {field id: (type, value)}."""

from __future__ import annotations

from typing import Any, TypeAlias

Struct: TypeAlias = dict[int, tuple[int, Any]]

TRUE, FALSE, BYTE, I16, I32, I64, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 8, 9, 12


def decode_struct(buffer: bytes | memoryview, position: int = 0) -> tuple[Struct, int]:
    """The struct at `position` and where it ends; ValueError or IndexError for bytes that hold none."""
    struct: Struct = {}
    field = 0
    while header := buffer[position]:
        position += 1
        if header >> 4:  # how far the id is past the last one
            field += header >> 4
        else:
            field, position = _decode_integer(buffer, position)
        kind = header & 15
        value, position = _decode_value(kind, buffer, position)
        struct[field] = kind, value
    return struct, position + 1


def encode_struct(struct: Struct) -> bytes:
    """The bytes of the struct, its fields in order of their ids."""
    encoded = bytearray()
    last = 0
    for field, (kind, value) in sorted(struct.items()):
        near = 0 < field - last < 16
        encoded += bytes([(field - last) << 4 | kind]) if near else bytes([kind]) + _encode_integer(field)
        encoded += _encode_value(kind, value)
        last = field
    return bytes(encoded) + b"\0"


def decode_varint(buffer: bytes | memoryview, position: int) -> tuple[int, int]:
    """The unsigned number at `position`, seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7


def encode_varint(value: int) -> bytes:
    """What `decode_varint` reads."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _decode_value(kind: int, buffer: bytes | memoryview, position: int) -> tuple[Any, int]:
    if kind in (TRUE, FALSE):
        return kind == TRUE, position
    if kind == BYTE:
        return buffer[position], position + 1
    if kind in (I16, I32, I64):
        return _decode_integer(buffer, position)
    if kind == BINARY:
        size, position = decode_varint(buffer, position)
        return bytes(buffer[position : position + size]), position + size
    if kind == STRUCT:
        return decode_struct(buffer, position)
    if kind != LIST:
        raise ValueError(f"type {kind} is not one that Parquet's metadata has")
    size, kind = buffer[position] >> 4, buffer[position] & 15
    position += 1
    if size == 15:
        size, position = decode_varint(buffer, position)
    if kind in (TRUE, FALSE):
        raise ValueError("lists of booleans are not in Parquet's footer")
    values = []
    for _ in range(size):
        value, position = _decode_value(kind, buffer, position)
        values.append(value)
    return (kind, values), position


def _encode_value(kind: int, value: Any) -> bytes:
    if kind in (TRUE, FALSE):
        return b""
    if kind == BYTE:
        return bytes([value])
    if kind in (I16, I32, I64):
        return _encode_integer(value)
    if kind == BINARY:
        return encode_varint(len(value)) + value
    if kind == STRUCT:
        return encode_struct(value)
    inner, values = value
    size = bytes([len(values) << 4 | inner]) if len(values) < 15 else bytes([0xF0 | inner])
    long = b"" if len(values) < 15 else encode_varint(len(values))
    return size + long + b"".join(_encode_value(inner, item) for item in values)


def _decode_integer(buffer: bytes | memoryview, position: int) -> tuple[int, int]:
    value, position = decode_varint(buffer, position)
    return value >> 1 ^ -(value & 1), position  # zigzag: 0, -1, 1, -2, ...


def _encode_integer(value: int) -> bytes:
    return encode_varint(value << 1 ^ value >> 63)
