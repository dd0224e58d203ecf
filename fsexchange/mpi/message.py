"""The messages of collectives: a small object itself, or where a large one is.

    offset  size
    0       1       the verb, see `wire`
    1       1       the kind of the message, see `wire`
    2       2       the root, modulo 65,536; 0 for verbs without one
    4       4       how many collectives its sender has called, modulo 2**32
    8       8       length of the message, unless it is SMALL
    16      ...     body; of SMALL at 8

    kind            body
    SMALL, PICKLE   a pickle
    BUFFERS         number of buffers, length of the pickle, length of each buffer (8 bytes each),
                    the pickle; then the buffers, each at a multiple of 64 bytes
    OWN_FILE        key of the file that holds the message, in binary form
    PART_OF_FILE    the same, and offset and length in it (8 bytes each)
    FAILURE         frames of a `Failure`
    STAND_BY        nothing

All but the kind and the length are the same on all ranks that call the same: the call. Verbs pass
it on as the head of a SMALL message.
This module needs no MPI.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fsexchange.connector.keys import KEY_SIZE, FileKey
from fsexchange.errors import FsExchangeError, MissingObjectError, RemoteError
from fsexchange.mpi import codec, wire
from fsexchange.serialize import deserialize, serialize
from fsexchange.serialize.format import ALIGNMENT
from fsexchange.store.failure import Failure

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector
    from fsexchange.mpi.codec import Encoded, Memory

#: A message as its receiver has it.
Message: TypeAlias = "Memory"

#: A message as its sender has it: consecutive pieces. The first contains the whole head; the others
#: may show the sender's own arrays.
Pieces: TypeAlias = "list[Memory]"

_CALL = struct.Struct("<BBHI")
_LENGTH = struct.Struct("<Q")
_PART = struct.Struct(f"<{KEY_SIZE}sQQ")
_LENGTHS = struct.Struct("<QQ")

#: Bytes before the body, and before that of a SMALL message.
HEAD_SIZE, CALL_SIZE = _CALL.size + _LENGTH.size, _CALL.size

# An object of up to this many bytes is copied into one piece: this costs less than another message
# for its arrays.
_JOINED_UP_TO = 1 << 16

# For this many bytes and more numpy asks Linux for huge pages, which Linux hands out in a quarter
# of the time.
_HUGE_PAGES_FROM = 1 << 22


# ---- sender -------------------------------------------------------------------------------------


def a_call(verb: int, root: int, number: int) -> bytes:
    """Return the call: the head of a SMALL message."""
    return _CALL.pack(verb, wire.SMALL, root & 0xFFFF, number & 0xFFFFFFFF)


def is_of(message: Message, call: bytes) -> bool:
    """Return whether a message of any kind is of the call."""
    return message[0] == call[0] and bytes(message[2:CALL_SIZE]) == call[2:]


def the_call(message: Message) -> str:
    """Return the verb, the root, if it has one, and the number of the call, for people."""
    verb, _, root, number = _CALL.unpack_from(message)
    name = wire.VERBS[verb] if verb < len(wire.VERBS) else "another verb"
    rooted = verb in (wire.BCAST, wire.GATHER, wire.SCATTER, wire.REDUCE)
    return f"{name}{f' of root {root}' if rooted else ''}, its collective no. {number}"


def _head(call: bytes, kind: int, nbytes: int) -> bytes:
    return b"".join((call[:1], bytes((kind,)), call[2:], _LENGTH.pack(nbytes)))


def of_object(call: bytes, encoded: Encoded) -> Pieces:
    """Return the message of an object."""
    body, buffers = encoded
    if not buffers:
        head = _head(call, wire.PICKLE, HEAD_SIZE + len(body))
        return [head + body] if len(body) <= _JOINED_UP_TO else [head, body]
    lengths = [len(each) for each in buffers]
    table = struct.pack(f"<{2 + len(lengths)}Q", len(lengths), len(body), *lengths)
    end = HEAD_SIZE + len(table) + len(body)
    pieces: Pieces = []
    for each in buffers:
        if end % ALIGNMENT:
            pieces.append(bytes(-end % ALIGNMENT))
            end += len(pieces[-1])
        pieces.append(each)
        end += len(each)
    head = _head(call, wire.BUFFERS, end)
    if end <= _JOINED_UP_TO:
        return [b"".join((head, table, body, *pieces))]
    if len(pieces[0]) < ALIGNMENT:
        return [b"".join((head, table, body, pieces[0])), *pieces[1:]]
    return [b"".join((head, table, body)), *pieces]


def failure(call: bytes, error: Exception) -> Pieces:
    """Return the message that makes its receiver raise `RemoteError`."""
    return _message(call, wire.FAILURE, b"".join(serialize(Failure(error))))


def stand_by(call: bytes) -> Pieces:
    """Return the message of a root that writes a file first, which takes a while."""
    return _message(call, wire.STAND_BY, b"")


def own_file(call: bytes, key: FileKey) -> Pieces:
    """Return the message of an object whose message has its own file."""
    return _message(call, wire.OWN_FILE, key.pack())


def part_of_file(call: bytes, key: FileKey, offset: int, nbytes: int) -> Pieces:
    """Return the message of an object whose message is a part of a file."""
    return _message(call, wire.PART_OF_FILE, _PART.pack(key.pack(), offset, nbytes))


def _message(call: bytes, kind: int, body: bytes) -> Pieces:
    return [_head(call, kind, HEAD_SIZE + len(body)) + body]


def joined(message: Pieces) -> Message:
    """Return a message in one piece that shows none of the sender's arrays."""
    if len(message) == 1:
        return message[0]
    nbytes = sum(map(len, message))
    if nbytes < _HUGE_PAGES_FROM:
        return bytearray().join(message)
    whole = empty(nbytes)
    end = 0
    for piece in message:
        start, end = end, end + len(piece)
        whole[start:end] = piece
    return whole


def split(message: Pieces, at: int) -> tuple[bytes, Message]:
    """Return the first `at` bytes of a message, and its rest, uncopied if that is one array."""
    if len(message) == 1 and len(message[0]) <= at:
        return bytes(message[0]), b""
    if len(message) == 2 and len(message[0]) <= at:
        first, data = message
        rest = memoryview(data)
        cut = at - len(first)
        return b"".join((first, rest[:cut])), rest[cut:]
    whole = memoryview(joined(message))
    return bytes(whole[:at]), whole[at:]


def private(encoded: Encoded) -> Any:
    """Return the object as a receiver would have it, in memory of its own."""
    body, buffers = encoded
    return codec.decode(body, [each if type(each) is bytes else _copy(each) for each in buffers])


def _copy(data: Memory) -> Memory:
    if len(data) < _HUGE_PAGES_FROM:
        return bytearray(data)
    copy = empty(len(data))
    copy[:] = data
    return copy


# ---- receiver -----------------------------------------------------------------------------------


def empty(nbytes: int) -> memoryview:
    """Return writable memory, which unlike a bytearray is not filled with zeros."""
    return np.empty(nbytes, np.uint8).data


def length(message: Message) -> int:
    """Return the length of a whole message, by its head; 0 if it is in its packet."""
    if message[1] == wire.SMALL:
        return 0
    nbytes: int = _LENGTH.unpack_from(message, CALL_SIZE)[0]
    return nbytes


def is_stand_by(message: Message) -> bool:
    """Return whether a message is `STAND_BY`."""
    return message[1] == wire.STAND_BY


def is_in_file(message: Message) -> bool:
    """Return whether the object is in a file; its writer may wait to remove that."""
    return message[1] in (wire.OWN_FILE, wire.PART_OF_FILE)


def decode(connector: FileConnector, message: Message, rank: int, host: str, *, last: bool) -> Any:
    """Return the object of a message from `rank`; the `last` reader of a file removes it.

    `RemoteError` if the sender failed, `MissingObjectError` if the file is gone; else what the
    object's own class raises while it is loaded, as mpi4py does.
    """
    kind = message[1]
    if kind == wire.SMALL:
        return codec.decode(memoryview(message)[CALL_SIZE:])
    if kind == wire.PICKLE:
        return codec.decode(memoryview(message)[HEAD_SIZE:])
    if kind == wire.BUFFERS:
        return _of_buffers(memoryview(message))
    body = memoryview(message)[HEAD_SIZE : length(message)]
    if kind == wire.FAILURE:
        told: Failure = deserialize(body)
        raise RemoteError(
            f"rank {rank} ({host}) failed in its part of this call: {told.last_line}",
            rank=rank,
            host=host,
            cause=told.error,
            traceback=told.traceback,
        )
    if kind == wire.OWN_FILE:
        key = FileKey.unpack(body)
        with _evicted(connector, key, last):
            data = connector.get(key)
    else:
        binary, offset, nbytes = _PART.unpack(body)
        key = FileKey.unpack(binary)
        with _evicted(connector, key, last):
            data = connector.get_part(key, offset, nbytes)
    if data is None:
        path = connector.path(key)
        raise MissingObjectError(f"{path} was removed before it was received", path=path)
    return decode(connector, data, rank, host, last=False)


def _of_buffers(message: memoryview) -> Any:
    count, nbytes = _LENGTHS.unpack_from(message, HEAD_SIZE)
    lengths = struct.unpack_from(f"<{count}Q", message, HEAD_SIZE + _LENGTHS.size)
    start = HEAD_SIZE + _LENGTHS.size + 8 * count
    end = start + nbytes
    body = message[start:end]
    buffers = []
    for each in lengths:
        start = end + -end % ALIGNMENT
        end = start + each
        buffers.append(message[start:end])
    return codec.decode(body, codec.pinned_by_none(buffers))


@contextlib.contextmanager
def _evicted(connector: FileConnector, key: FileKey, last: bool) -> Iterator[None]:
    """Remove a file after the block if this reader is the `last`, even if the block raises."""
    try:
        yield
    finally:
        if last:
            with contextlib.suppress(FsExchangeError):
                connector.evict(key)


# ---- files --------------------------------------------------------------------------------------


def in_one_file(messages: Sequence[Pieces]) -> tuple[Pieces, list[tuple[int, int]]]:
    """Return the content of a file of messages, and the offset and length of each in it."""
    written: Pieces = []
    parts: list[tuple[int, int]] = []
    end = 0
    for pieces in messages:
        start = end + -end % ALIGNMENT
        if start > end:
            written.append(bytes(start - end))
        written += pieces
        end = start + length(pieces[0])
        parts.append((start, end - start))
    return written, parts
