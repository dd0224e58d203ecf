"""The format of frames, which hold a body and its buffers; reading proves that they are whole.

All numbers are little-endian, lengths are in bytes. Version 1:

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

Version 2 is written where version 1 cannot say what is needed. It has kind 0, a pickle, with these
numbers of 8 bytes behind the lengths of the buffers, also in the table:

    1               number of long values, m: bytes or text of 64 KiB or more
    2 * m           for each long value its start in the body and its length: the CRC leaves them
                    out unless the flag is set
    1               length of the section of the script, which ends the object: see `script`

and kind 6, a small pickle:

    offset  size
    0       8       magic, version: 2, kind: 6, and two bytes of 0
    8       4       CRC-32 of the pickle, begun at the length of the pickle
    12      4       length of the pickle
    16      4       length of pickle and section
    20      ...     pickle
    ...             section of the script, if any
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from fsexchange.errors import CorruptObjectError, SerializationError
from fsexchange.serialize.crc import crc32

#: The buffers that make one object when they are written one after the other.
Frames: TypeAlias = "list[bytes | memoryview]"

#: A body in pieces, as the pickler made them.
Pieces: TypeAlias = "Sequence[bytes | memoryview]"

MAGIC = b"\x93FSX"
VERSION = 2
_HEAD = struct.Struct("<4sBBHQQII")
_CRC_AT = _HEAD.size - 4
_pack_start = struct.Struct("<4sBBHQQI").pack  # all of it but the CRC

#: Bit of the flags: the CRC covers the buffers, too.
CHECKSUM = 1

#: Every buffer starts at a multiple of this many bytes.
ALIGNMENT = 64

PICKLE, BYTES, BYTEARRAY, STR, NDARRAY, MEMORYVIEW, SMALL = range(7)

_SMALL = struct.Struct("<8sIII")
#: The first bytes of every small pickle.
SMALL_START = MAGIC + bytes((2, SMALL, 0, 0))
SMALL_HEAD = _SMALL.size
pack_small, _unpack_small = _SMALL.pack, struct.Struct("<8xIII").unpack_from

# A pickle of so many bytes is copied into one frame, which takes less time than one frame more.
_JOINED_UP_TO = 1 << 14


@lru_cache(256)
def _lengths(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


_ZEROS = [bytes(count) for count in range(ALIGNMENT)]

# What is before the elements of bytes and text: the head but for the CRC, the CRC, the table, and
# padding.
_PLAIN = struct.Struct("<28sI8s24x")
_PLAIN_START = struct.Struct("<4sBBHQQIQ")
_pack_lengths = struct.Struct("<QQ").pack

#: The first bytes of bytes and text without a checksum -> their kind.
PLAIN = {MAGIC + bytes((1, kind, 0, 0)): kind for kind in (BYTES, BYTEARRAY, STR)}

#: The first bytes of pickles of version 1 without a checksum.
PICKLE_START = MAGIC + bytes((1, PICKLE, 0, 0))

#: The first bytes of arrays without a checksum.
ARRAY_START = MAGIC + bytes((1, NDARRAY, 0, 0))


def frames(kind: int, body: bytes, buffers: list[memoryview], checksum: bool) -> Frames:
    """Return head, table and body as one frame, then the buffers, each at a multiple of 64."""
    return _frames(kind, [body], buffers, checksum)


def plain_frames(kind: int, data: bytes | bytearray) -> Frames:
    """Return bytes or text without a checksum: as `frames` does, in less time."""
    return [plain_head(kind, len(data)), data if type(data) is bytes else memoryview(data)]


def plain_head(kind: int, size: int) -> bytes:
    """Return what is before `size` bytes of bytes or text: always of one length."""
    start = _PLAIN_START.pack(MAGIC, 1, kind, 0, ALIGNMENT + size, 0, 1, size)
    return _PLAIN.pack(start[:_CRC_AT], crc32(start), start[_CRC_AT:])


def frames_of_pieces(
    pieces: Pieces,
    long: Sequence[int],
    buffers: Sequence[memoryview],
    section: bytes,
    checksum: bool,
) -> Frames:
    """Return a pickle in pieces, of which those numbered `long` are long values."""
    if not long and not section:
        if len(pieces) == 1 and not buffers:
            (body,) = pieces
            size = len(body)
            flags = CHECKSUM if checksum else 0
            head = _pack_start(MAGIC, 1, PICKLE, flags, _HEAD.size + size, size, 0)
            return [head + crc32(body, crc32(head)).to_bytes(4, "little"), body]
        return _frames(PICKLE, pieces, buffers, checksum)
    numbers = [len(long)]
    if long:
        starts = list(itertools.accumulate(map(len, pieces), initial=0))
        for n in long:
            numbers += (starts[n], len(pieces[n]))
    numbers.append(len(section))
    more = _lengths(len(numbers)).pack(*numbers)
    return _frames(PICKLE, pieces, buffers, checksum, set(long), more, section)


def _frames(
    kind: int,
    pieces: Pieces,
    buffers: Sequence[memoryview],
    checksum: bool,
    long: Collection[int] = (),
    more: bytes = b"",
    section: bytes = b"",
) -> Frames:
    """Return head and table as one frame, the pieces of the body, the buffers, and the section."""
    count = len(buffers)
    table = _lengths(count).pack(*[data.nbytes for data in buffers]) + more
    body_size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
    end = _HEAD.size + len(table) + body_size
    rest: Frames = []
    for data in buffers:
        padding = -end % ALIGNMENT
        end += padding + data.nbytes
        rest += (_ZEROS[padding], data)
    if section:
        end += len(section)
        rest.append(section)
    version, flags = 2 if more else 1, CHECKSUM if checksum else 0
    head = _pack_start(MAGIC, version, kind, flags, end, body_size, count)
    crc = crc32(table, crc32(head))
    for n, piece in enumerate(pieces):
        if checksum or n not in long:
            crc = crc32(piece, crc)
    if checksum:
        for data in buffers:
            crc = crc32(data, crc)
    if len(pieces) == 1:
        return [b"".join((head, crc.to_bytes(4, "little"), table, *pieces, *rest[:1])), *rest[1:]]
    return [b"".join((head, crc.to_bytes(4, "little"), table)), *pieces, *rest]


try:
    from fsexchange.serialize._native import framed as framed
except ImportError:

    def framed(body: bytes, buffers: list[memoryview], crc32: Callable[..., int], /) -> Frames:
        """Return the frames of a pickle and its buffers."""
        return _frames(PICKLE, [body], buffers, checksum=False)


try:
    from fsexchange.serialize._native import small_frame as small_frame
except ImportError:

    def small_frame(body: bytes, crc32: Callable[..., int], section: bytes = b"", /) -> bytes:
        """Return a pickle and the section of the script as the one frame of a small object."""
        size = len(body)
        head = pack_small(SMALL_START, crc32(body, size), size, size + len(section))
        return b"".join((head, body, section))


try:
    from fsexchange.serialize._native import small_frames as small_frames
except ImportError:

    def small_frames(pieces: Pieces, section: bytes, crc32: Callable[..., int], /) -> Frames:
        """Return the frames of a pickle in pieces, and of the section, as a small object."""
        size = crc = sum(map(len, pieces))
        for piece in pieces:
            crc = crc32(piece, crc)
        head = pack_small(SMALL_START, crc, size, size + len(section))
        first, *rest = pieces
        frames = [b"".join((head, first)), *rest] if len(first) < _JOINED_UP_TO else [head, *pieces]
        return [*frames, section] if section else frames


def proven_small(view: Any) -> Any:
    """Return the pickle of what begins as a small object, after proving that this is whole."""
    nbytes = len(view) - SMALL_HEAD
    wanted, size, total = _unpack_small(view) if nbytes >= 0 else (0, 0, 0)
    if total != nbytes:
        raise truncated(SMALL_HEAD + total, len(view))
    body = view[SMALL_HEAD : SMALL_HEAD + size]
    if crc32(body, size) != wanted or size > total:
        raise changed()
    return body


try:
    from fsexchange.serialize._native import parsed as parsed
except ImportError:

    def parsed(
        view: memoryview, crc32: Callable[..., int], /
    ) -> tuple[bytes, list[memoryview]] | None:
        """Return None: `parse` finds out as much."""
        return None


try:
    from fsexchange.serialize._native import loaded as loaded
except ImportError:

    def loaded(buffer: object, crc32: Callable[..., int], seen: bytes, name: bytes, /) -> Any:
        """Return NotImplemented: `proven_small` and `parse` find out as much."""
        return NotImplemented


def plain_data(view: Any) -> Any:
    """Return the data of what begins as `plain_frames` begins; None if something else made it."""
    nbytes = len(view)
    if nbytes < ALIGNMENT:
        return None
    start, crc, table = _PLAIN.unpack_from(view)
    lengths = start[8:16] + table
    if crc32(start + table) != crc or lengths != _pack_lengths(nbytes, nbytes - ALIGNMENT):
        return None
    return memoryview(view)[ALIGNMENT:]


class Parsed(NamedTuple):
    """The parts of an object. `long` tells which long values the CRC leaves out: as in the table,
    their number, and of each in turn its start in the body and its length."""

    kind: int
    body: memoryview
    buffers: list[memoryview]
    section: bytes | memoryview
    long: tuple[int, ...]


def parse(view: memoryview) -> Parsed:
    """Return the parts of any other object, after proving the same."""
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
    lengths_end = body_start = _HEAD.size + 8 * count
    numbers: tuple[int, ...] = ()
    if version == 2:
        long_values = int.from_bytes(view[lengths_end : lengths_end + 8], "little")
        body_start += 8 * (2 + 2 * long_values)
    end = body_start + body_size
    if end > size:
        raise changed()
    if version == 2 and not flags & CHECKSUM:
        numbers = _lengths(1 + 2 * long_values).unpack_from(view, lengths_end)
    crc = crc32(view[:_CRC_AT])
    at = _HEAD.size
    for n in range(1, len(numbers), 2):
        crc = crc32(view[at : body_start + numbers[n]], crc)
        at = body_start + numbers[n] + numbers[n + 1]
    crc = crc32(view[at:end], crc)
    if crc != wanted and not flags & CHECKSUM:
        raise changed()
    body = view[body_start:end]
    buffers = []
    if count:
        for nbytes in _lengths(count).unpack_from(view, _HEAD.size):
            start = end + -end % ALIGNMENT
            end = start + nbytes
            buffers.append(view[start:end])
            if flags & CHECKSUM:
                crc = crc32(buffers[-1], crc)
    if crc != wanted or kind > MEMORYVIEW:
        raise changed()
    return Parsed(kind, body, buffers, view[end:] if end < size else b"", numbers)


def length_of(start: bytes) -> int:
    """Return how long the object is that begins with these 20 bytes, or with all that it has.

    At least as long as it is known to be from fewer; 0 for what does not begin as an object.
    """
    if start[:4] != MAGIC or start[4:5] > bytes((VERSION,)):
        return 0
    if len(start) < SMALL_HEAD:
        return SMALL_HEAD
    if start[:8] == SMALL_START:
        return SMALL_HEAD + int.from_bytes(start[16:20], "little")
    return int.from_bytes(start[8:16], "little")


def truncated(expected: int, actual: int) -> CorruptObjectError:
    """Return the error for an object of the wrong length."""
    return CorruptObjectError(
        f"the object has {actual} bytes instead of {expected}: it was truncated or overwritten",
        expected=expected,
        actual=actual,
    )


def changed() -> CorruptObjectError:
    """Return the error for an object of the right length."""
    return CorruptObjectError(
        "the object was changed since it was written: its CRC-32 is not the one in its header"
    )
