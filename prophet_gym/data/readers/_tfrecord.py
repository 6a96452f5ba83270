"""TFRecord files and the `tf.train.Example` in each record, without TensorFlow.

Formats: tensorflow.org/tutorials/load_data/tfrecord ("TFRecords format details"),
`tensorflow/core/example/example.proto` and
protobuf.dev/programming-guides/encoding. A file is mapped, so what a feature does not need is not read from disk.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, Int64

from prophet_gym._io.files import modified, reading, require_file

_HEADER, _FOOTER = 12, 4
_MASK_ADDED = 0xA282EAD8
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types of protobuf; the two others are not used since 2008
_LISTS = {1: "bytes", 2: "float", 3: "int64"}
"""The kinds of a `Feature`, by field number."""

Values: TypeAlias = tuple[str, memoryview]
"""A feature of an example, not decoded yet: `bytes`, `float` or `int64`, and the list's message."""


@dataclass(frozen=True)
class Record:
    """Say where a record lies: its file, its number there, and the place and length of its data in bytes.

    `changed` is when the file was, as it was opened: a record of a file that was written again is another one.
    """

    path: Path
    number: int
    start: int
    length: int
    changed: int

    def __str__(self) -> str:
        return f"record {self.number} of {self.path}"


def list_records(path: Path) -> list[Record]:
    """Return the records of a file, reading no more than their lengths; ValueError for one that is cut or damaged."""
    data, found, place = _mapped(path), [], 0
    changed = modified(path)
    while place < len(data):
        if place + _HEADER > len(data):
            raise ValueError(f"{path} is cut inside the header of record {len(found)}; fetch it again")
        length, checksum = struct.unpack_from("<QI", data, place)
        record = Record(path, len(found), place + _HEADER, length, changed)
        if _masked(data[place : place + 8]) != checksum:
            raise ValueError(f"the length of {record} does not fit its checksum; fetch the file again")
        place += _HEADER + length + _FOOTER
        if place > len(data):
            raise ValueError(f"{path} is cut inside record {len(found)}, {place - len(data)} bytes lack; fetch it")
        found.append(record)
    return found


def examine(record: Record, *, check: bool = True) -> dict[str, Values]:
    """Return the features of the example in a record, not decoded.

    ValueError where its bytes do not fit their checksum, or are no example. Without `check` only the pages that are
    looked at are read, which is for what costs no harm: how long a list is.
    """
    data = _mapped(record.path)
    end = record.start + record.length
    if end + _FOOTER > len(data):
        raise ValueError(f"{record.path} is shorter than when it was opened, {record} is cut; fetch it again")
    content = data[record.start : end]
    if check and _masked(content) != struct.unpack_from("<I", data, end)[0]:
        raise ValueError(f"the data of {record} do not fit their checksum; fetch the file again")
    with reading(f"{record} must be a tf.train.Example", "read it with the library that wrote it"):
        return dict(_features(content))


def byte_strings(values: Values, where: str) -> list[memoryview]:
    """Return the strings of a list of bytes; ValueError for a list of numbers."""
    kind, message = values
    _require(kind == "bytes", where, "bytes", kind)
    return [value for _, _, value in _fields(message) if isinstance(value, memoryview)]


def numbers(values: Values, where: str) -> Float32[np.ndarray, " n"] | Int64[np.ndarray, " n"]:
    """Return the numbers of a list of float or int64; ValueError for bytes."""
    kind, message = values
    _require(kind != "bytes", where, "numbers", kind)
    # Writers pack a list's numbers into one field; readers must take one field a number, too.
    if kind == "float":
        parts = [value for _, _, value in _fields(message) if isinstance(value, memoryview)]
        return np.concatenate([np.frombuffer(part, "<f4") for part in parts] or [np.zeros(0, np.float32)])
    found: list[int] = []
    for _, _, value in _fields(message):
        found += [value] if isinstance(value, int) else _varints(value)
    return np.array([value - (value >> 63 << 64) for value in found], np.int64)


def count(values: Values) -> int:
    """Return how many values a list has, decoding none."""
    kind, message = values
    total = 0
    for _, _, value in _fields(message):
        if kind == "bytes" or isinstance(value, int):
            total += 1
        elif kind == "float":
            total += len(value) // 4
        else:
            total += int((np.frombuffer(value, np.uint8) < 128).sum())  # the last byte of a varint
    return total


def _require(fits: bool, where: str, wanted: str, kind: str) -> None:  # noqa: FBT001
    if not fits:
        raise ValueError(f"{where} must be {wanted}, is a list of {kind}; name another feature")


def _mapped(path: Path) -> memoryview:
    """Map a file for one read: no handle may cross into another process, so none is kept."""
    require_file(path)
    if not path.stat().st_size:
        return memoryview(b"")
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _masked(content: memoryview) -> int:
    """Return TFRecord's checksum: a rotated CRC-32C."""
    try:
        import google_crc32c
    except ImportError as error:
        told = "TFRecords are checked with google-crc32c: pip install 'prophet-gym[data]'"
        raise ImportError(told, name=error.name) from error
    checksum = google_crc32c.value(bytes(content))
    return ((checksum >> 15 | checksum << 17) + _MASK_ADDED) & 0xFFFFFFFF


def _features(example: memoryview) -> Iterator[tuple[str, Values]]:
    """Walk Example.features.feature, a map: entries of key 1 and value 2."""
    for entry in (entry for features in _messages(example, 1) for entry in _messages(features, 1)):
        (key,) = _messages(entry, 1)
        for number, _, value in (field for feature in _messages(entry, 2) for field in _fields(feature)):
            if not isinstance(value, memoryview) or number not in _LISTS:
                raise ValueError(f"feature {bytes(key)!r} has a list of kind {number}")
            yield bytes(key).decode(), (_LISTS[number], value)


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    for found, _, value in _fields(message):
        if found == number and isinstance(value, memoryview):
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Walk a message: number, wire type and value of each field, numbers of fixed size as their bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        wire = tag & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield tag >> 3, wire, value
            continue
        if wire == _BYTES:
            length, place = _varint(message, place)
        elif wire in (_EIGHT, _FOUR):
            length = 8 if wire == _EIGHT else 4
        else:
            raise ValueError(f"wire type {wire} is unknown")
        if place + length > len(message):
            raise ValueError(f"a field of {length} bytes ends behind its message")
        yield tag >> 3, wire, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message) and shift < 70:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("a number is cut")


def _varints(packed: memoryview) -> list[int]:
    found, place = [], 0
    while place < len(packed):
        value, place = _varint(packed, place)
        found.append(value)
    return found
