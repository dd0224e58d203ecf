"""The messages of collectives, each an object.

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
    FAILURE         frames of a `Failure`

All but the kind and the length are the same on all ranks that call the same: the call. Verbs pass
it on as the head of a SMALL message.
This module needs no MPI.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, TypeAlias

from fsexchange.errors import RemoteError
from fsexchange.mpi import codec, wire
from fsexchange.mpi.received import KEPT_FROM, empty
from fsexchange.serialize import deserialize, serialize
from fsexchange.serialize.format import ALIGNMENT
from fsexchange.store.failure import Failure

if TYPE_CHECKING:
    from fsexchange.mpi.codec import Encoded, Memory

#: A message as its receiver has it.
Message: TypeAlias = "Memory"

#: A message as its sender has it: consecutive pieces. The first contains the whole head; the others
#: may show the sender's own arrays.
Pieces: TypeAlias = "list[Memory]"

_CALL = struct.Struct("<BBHI")
_OF_CALL = struct.Struct("<Bx6s")
_LENGTH = struct.Struct("<Q")
_LENGTHS = struct.Struct("<QQ")
_OF_ONE = struct.Struct(f"<cB{_CALL.size - 2}sQQQQ")  # the head, and the table for one buffer

#: Bytes before the body, and before that of a SMALL message.
CALL_SIZE = _CALL.size
HEAD_SIZE = CALL_SIZE + _LENGTH.size

# An object of up to this many bytes is copied into one piece: this costs less than another message
# for its arrays.
_JOINED_UP_TO = 1 << 13


# ---- sender -------------------------------------------------------------------------------------


def a_call(verb: int, root: int, number: int) -> bytes:
    """Return the call: the head of a SMALL message."""
    return _CALL.pack(verb, wire.SMALL, root & 0xFFFF, number & 0xFFFFFFFF)


def is_of(message: Message, call: bytes) -> bool:
    """Return whether a message of any kind is of the call."""
    return _OF_CALL.unpack_from(message) == _OF_CALL.unpack(call)


def number_of(message: Message) -> int:
    """Return how many collectives the sender of a message has called, modulo 2**32."""
    number: int = _CALL.unpack_from(message)[-1]
    return number


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
    if len(lengths) == 1:  # most often, and so in less time
        end = _OF_ONE.size + len(body)
        padding, end = -end % ALIGNMENT, end + -end % ALIGNMENT + lengths[0]
        start = _OF_ONE.pack(call[:1], wire.BUFFERS, call[2:], end, 1, len(body), *lengths)
        first = b"".join((start, body, bytes(padding)))
        return [first + buffers[0]] if end <= _JOINED_UP_TO else [first, buffers[0]]
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
    body = b"".join(serialize(Failure(error)))
    return [_head(call, wire.FAILURE, HEAD_SIZE + len(body)) + body]


def joined(message: Pieces) -> Message:
    """Return a message in one piece that shows none of the sender's arrays."""
    if len(message) == 1:
        return message[0]
    nbytes = sum(map(len, message))
    if nbytes < KEPT_FROM:
        return bytearray().join(message)
    whole = empty(nbytes)
    end = 0
    for piece in message:
        start, end = end, end + len(piece)
        whole[start:end] = piece
    return whole


def start(message: Pieces, nbytes: int) -> bytes:
    """Return the first bytes of a message."""
    taken: list[Memory] = []
    for piece in message:
        if nbytes <= 0:
            break
        taken.append(memoryview(piece)[:nbytes])
        nbytes -= len(piece)
    return b"".join(taken)


def rest(message: Pieces, at: int) -> Message:
    """Return a message from `at` on, uncopied if that is one array."""
    if len(message) == 2 and len(message[0]) <= at:
        return memoryview(message[1])[at - len(message[0]) :]
    return memoryview(joined(message))[at:]


def private(encoded: Encoded) -> Any:
    """Return the object as a receiver would have it, in memory of its own."""
    body, buffers = encoded
    return codec.decode(body, [each if type(each) is bytes else _copy(each) for each in buffers])


def _copy(data: Memory) -> Memory:
    if len(data) < KEPT_FROM:
        return bytearray(data)
    copy = empty(len(data))
    copy[:] = data
    return copy


# ---- receiver -----------------------------------------------------------------------------------


def length(message: Message) -> int:
    """Return the length of a whole message, by its head; 0 if it is in its packet."""
    if message[1] == wire.SMALL:
        return 0
    nbytes: int = _LENGTH.unpack_from(message, CALL_SIZE)[0]
    return nbytes


def decode(message: Message, rank: int, host: str) -> Any:
    """Return the object of a message from `rank`; `RemoteError` if the sender failed.

    Raises what the object's own class raises while it is loaded, as mpi4py does.
    """
    kind = message[1]
    if kind == wire.SMALL:
        return codec.decode(memoryview(message)[CALL_SIZE:])
    if kind == wire.PICKLE:
        return codec.decode(memoryview(message)[HEAD_SIZE:])
    if kind == wire.BUFFERS:
        return _of_buffers(memoryview(message))
    told: Failure = deserialize(memoryview(message)[HEAD_SIZE : length(message)])
    raise RemoteError(
        f"rank {rank} ({host}) failed in its part of this call: {told.last_line}",
        rank=rank,
        host=host,
        cause=told.error,
        traceback=told.traceback,
    )


def _of_buffers(message: memoryview) -> Any:
    count, nbytes = _LENGTHS.unpack_from(message, HEAD_SIZE)
    if count == 1:  # most often, and so in less time
        end = _OF_ONE.size + nbytes
        start = end + -end % ALIGNMENT
        nbytes = _LENGTH.unpack_from(message, _OF_ONE.size - _LENGTH.size)[0]
        return codec.decode(message[_OF_ONE.size : end], (message[start : start + nbytes],))
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
