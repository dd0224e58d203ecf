"""The format of frames, which hold a body and its buffers; reading proves that they are whole.

Version 1; all numbers are little-endian, lengths are in bytes:

    offset  size
    0       4       magic: 93 'FSX'
    4       1       version: 1
    5       1       kind: 0 pickle, 1 bytes, 2 bytearray, 3 str, 4 ndarray, 5 memoryview
    6       2       flags: bit 0: the CRC covers the buffers, too
    8       8       length of the whole object
    16      8       length of the body
    24      4       number of buffers, n
    28      4       CRC-32 (zlib) of bytes 0 to 27, of bytes 32 to the end of the body, and, if
                    the flag is set, of each buffer in turn
    32      8 * n   lengths of the buffers
    ...             body
    ...             each buffer, at the next multiple of 64 from the start

Bytes 0 to 31 are the head; the lengths of the buffers are the table. A pickle's body is a pickle of
protocol 5, and its buffers are the out-of-band buffers. The body of an ndarray or memoryview is 'C'
or 'F' for the order, one byte for the number of dimensions, 8 bytes for each dimension, then
numpy's `dtype.str`; its one buffer holds the elements. Bytes, bytearray and str have no body, and
their one buffer holds the bytes; a str is in UTF-8, in which lone surrogates are allowed.
"""

from __future__ import annotations

import struct
import zlib
from typing import TypeAlias

from fsexchange.errors import CorruptObjectError, SerializationError

#: The buffers that make one object when they are written one after the other.
Frames: TypeAlias = "list[bytes | memoryview]"

MAGIC = b"\x93FSX"
VERSION = 1
_HEAD = struct.Struct("<4sBBHQQII")
_CRC_AT = _HEAD.size - 4

#: Bit of the flags: the CRC covers the buffers, too.
CHECKSUM = 1

#: Every buffer starts at a multiple of this many bytes.
ALIGNMENT = 64

PICKLE, BYTES, BYTEARRAY, STR, NDARRAY, MEMORYVIEW = range(6)


def frames(kind: int, body: bytes, buffers: list[memoryview], checksum: bool) -> Frames:
    """Return head, table and body as one frame, then the buffers, each at a multiple of 64."""
    table = struct.pack(f"<{len(buffers)}Q", *[data.nbytes for data in buffers])
    end = _HEAD.size + len(table) + len(body)
    rest: Frames = []
    for data in buffers:
        padding = bytes(-end % ALIGNMENT)
        end += len(padding) + data.nbytes
        rest += (padding, data)
    flags = CHECKSUM if checksum else 0
    head = _HEAD.pack(MAGIC, VERSION, kind, flags, end, len(body), len(buffers), 0)[:_CRC_AT]
    crc = zlib.crc32(body, zlib.crc32(table, zlib.crc32(head)))
    if checksum:
        for data in buffers:
            crc = zlib.crc32(data, crc)
    first = b"".join((head, crc.to_bytes(4, "little"), table, body, *rest[:1]))
    return [first, *rest[1:]]


def parse(view: memoryview) -> tuple[int, memoryview, list[memoryview]]:
    """Return kind, body and buffers, after proving that the object is whole."""
    size = view.nbytes
    if size < _HEAD.size:
        raise truncated(_HEAD.size, size)
    _, version, kind, flags, total, body_size, count, wanted = _HEAD.unpack_from(view)
    if version > VERSION:
        raise SerializationError(
            f"the object is in format version {version}, and this fsexchange reads up to version "
            f"{VERSION}: upgrade fsexchange here"
        )
    if total != size:
        raise truncated(total, size)
    body_start = _HEAD.size + 8 * count
    end = body_start + body_size
    if end > size:
        raise _changed()
    crc = zlib.crc32(view[_HEAD.size : end], zlib.crc32(view[:_CRC_AT]))
    if crc != wanted and not flags & CHECKSUM:
        raise _changed()
    body = view[body_start:end]
    buffers = []
    for at in range(_HEAD.size, body_start, 8):
        start = end + -end % ALIGNMENT
        end = start + int.from_bytes(view[at : at + 8], "little")
        buffers.append(view[start:end])
        if flags & CHECKSUM:
            crc = zlib.crc32(buffers[-1], crc)
    if crc != wanted or kind > MEMORYVIEW:
        raise _changed()
    return kind, body, buffers


def truncated(expected: int, actual: int) -> CorruptObjectError:
    """Return the error for an object of the wrong length."""
    return CorruptObjectError(
        f"the object has {actual} bytes instead of {expected}: it was truncated or overwritten",
        expected=expected,
        actual=actual,
    )


def _changed() -> CorruptObjectError:
    return CorruptObjectError(
        "the object was changed since it was written: its CRC-32 is not the one in its header"
    )
