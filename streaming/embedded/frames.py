"""One record in a segment file: magic, length, checksum, body. Pure bytes; files are `streaming.embedded.segments`'.

magic 4 | body length u32 | crc32 of body u32 | offset i64 | timestamp in ms i64 | key length i32
| value length i32 (-1: none) | number of headers u16 | key | value
| of each header: name length u16 | value length u32 | name | value
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from zlib import crc32

from streaming.log import Headers
from streaming.topics import LARGEST_RECORD

MAGIC = b"\xf5aL\xfe"
"""No UTF-8 text holds it, so that no event is mistaken for a frame."""
_HEAD = Struct(">4sII")
_BODY = Struct(">qqiiH")
_HEADER = Struct(">HI")
HEAD_BYTES = _HEAD.size
LARGEST_FRAME = LARGEST_RECORD + (1 << 20)


@dataclass(frozen=True, slots=True)
class Frame:
    """A record as it stands in a file."""

    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes | None
    headers: Headers


def encode_frame(frame: Frame) -> bytes:
    """The frame's bytes."""
    value = b"" if frame.value is None else frame.value
    size = -1 if frame.value is None else len(value)
    parts = [_BODY.pack(frame.offset, frame.timestamp_ms, len(frame.key), size, len(frame.headers)), frame.key, value]
    for name, told in frame.headers:
        encoded = name.encode()
        parts += [_HEADER.pack(len(encoded), len(told)), encoded, told]
    body = b"".join(parts)
    return _HEAD.pack(MAGIC, len(body), crc32(body)) + body


def frame_end(data: bytes, at: int) -> int | None:
    """Where the whole, undamaged frame at `at` ends; None where there is none."""
    start = at + HEAD_BYTES
    if start > len(data):
        return None
    magic, length, checksum = _HEAD.unpack_from(data, at)
    end = start + length
    if magic != MAGIC or not _BODY.size <= length <= LARGEST_FRAME or end > len(data):
        return None
    return end if crc32(memoryview(data)[start:end]) == checksum else None


def wanted_bytes(data: bytes, at: int) -> int:
    """How many bytes from `at` on the frame that begins there needs, as far as its head tells."""
    if len(data) - at < HEAD_BYTES:
        return HEAD_BYTES
    magic, length, _ = _HEAD.unpack_from(data, at)
    return HEAD_BYTES + (length if magic == MAGIC and length <= LARGEST_FRAME else 0)


def frame_offset(data: bytes, at: int) -> int:
    """The offset of the whole frame at `at`."""
    return int(_BODY.unpack_from(data, at + HEAD_BYTES)[0])


def decode_frame(data: bytes, at: int) -> Frame:
    """The whole frame at `at`."""
    at += HEAD_BYTES
    offset, timestamp, key_size, value_size, count = _BODY.unpack_from(data, at)
    at += _BODY.size
    key, at = data[at : at + key_size], at + key_size
    value = None
    if value_size >= 0:
        value, at = data[at : at + value_size], at + value_size
    headers = []
    for _ in range(count):
        name_size, told_size = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        headers.append((data[at : at + name_size].decode(), data[at + name_size : at + name_size + told_size]))
        at += name_size + told_size
    return Frame(offset, timestamp, key, value, tuple(headers))


def whole_frames(data: bytes, at: int = 0) -> Iterator[tuple[int, int]]:
    """(start, end) of the undamaged frames that follow each other from `at` on, up to the first that is none."""
    while (end := frame_end(data, at)) is not None:
        yield at, end
        at = end


def later_frame(data: bytes, at: int) -> bool:
    """Whether an undamaged frame stands anywhere after a damaged one at `at`."""
    found = data.find(MAGIC, at + 1)
    while found >= 0:
        if frame_end(data, found) is not None:
            return True
        found = data.find(MAGIC, found + 1)
    return False
