"""The messages that travel between ranks: a small object itself, or the key of a large one.

    offset  size
    0       1       the kind of the message: one of the first bytes of `wire`
    8       8       length of the body, little-endian
    16      ...     body

    first byte      body
    OBJECT          frames of `serialize`
    OWN_FILE        key in binary form
    PART_OF_FILE    key in binary form, offset (8 bytes), length (8 bytes)
    FAILURE         frames of a `Failure`
    STAND_BY        nothing

This module needs no MPI.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fsexchange.connector.keys import KEY_SIZE, FileKey
from fsexchange.errors import (
    FsExchangeError,
    MissingObjectError,
    RemoteError,
    SerializationError,
)
from fsexchange.mpi import wire
from fsexchange.serialize import deserialize, serialize
from fsexchange.serialize.format import ALIGNMENT
from fsexchange.store.failure import Failure

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector
    from fsexchange.serialize.format import Frames

#: A message as its receiver has it.
Message: TypeAlias = "bytes | bytearray | memoryview"

#: A message as its sender has it: consecutive pieces. The first contains the whole head; the others
#: may show the sender's own arrays.
Pieces: TypeAlias = "list[bytes | bytearray | memoryview]"

_HEAD = struct.Struct("<B7xQ")
_PART = struct.Struct(f"<{KEY_SIZE}sQQ")

#: Bytes before the body.
HEAD_SIZE = _HEAD.size

# An object of up to this many bytes is copied into one piece: this costs less than another message
# for its arrays.
_JOINED_UP_TO = 1 << 16

# For this many bytes and more numpy asks Linux for huge pages, which Linux hands out in a quarter
# of the time.
_HUGE_PAGES_FROM = 1 << 22


class Outgoing(NamedTuple):
    """What a rank sends in one call of a verb."""

    messages: Sequence[Pieces]
    """One message, or one for each rank."""
    key: FileKey | None = None
    """The key of the file that messages refer to; its writer removes it, unless a receiver does."""
    readers: Sequence[int] = ()
    """The ranks whose messages refer to a part of that file."""
    error: Exception | None = None
    """The error that the sender raises after it has sent its messages, which carry it, too."""
    longest: int = 0
    """Bytes of the longest object that may move to a file."""


def encode(obj: Any) -> Outgoing:
    """Return the message of an object, or of the error that serializing it raises."""
    try:
        pieces = _object(serialize(obj))
        return Outgoing([pieces], longest=length(pieces[0]) - HEAD_SIZE)
    except Exception as error:  # whatever it is, others wait for a message
        return Outgoing([[failure(error)]], error=error)


def encode_each(
    objs: Any, size: int, verb: str, check: Callable[[Any], Any] | None = None
) -> Outgoing:
    """Return a message for each of `size` ranks: its object, or what `check` returns for that.

    If there is an error, all ranks get the first one in place of the objects.
    """
    try:
        items = [None] * size if objs is None else list(objs)
        if len(items) != size:
            raise ValueError(
                f"{verb} takes one item for each of the {size} ranks, and got {len(items)}"
            )
        if check is not None:
            items = list(map(check, items))
        messages = [_object(serialize(item)) for item in items]
        longest = max(length(pieces[0]) for pieces in messages) - HEAD_SIZE
        return Outgoing(messages, longest=longest)
    except Exception as error:
        return Outgoing([[failure(error)]] * size, error=error)


def attempt(function: Callable[[], Any]) -> Outgoing:
    """Return a message with what `function` returns or raises; it never moves to a file.

    A rank that could not read the file would be out of step with the others.
    """
    try:
        obj = function()
    except Exception as error:  # whatever it is, others wait for a message
        return Outgoing([[failure(error)]], error=error)
    return inline(encode(obj))


def inline(sent: Outgoing) -> Outgoing:
    """Return the same messages, none of which may move to a file."""
    return sent._replace(longest=0)


def spill(connector: FileConnector, sent: Outgoing, inline_limit: int) -> Outgoing:
    """Move the objects longer than `inline_limit` bytes to one file, to which messages refer."""
    if sent.longest <= inline_limit:
        return sent
    messages = list(sent.messages)
    limit = HEAD_SIZE + inline_limit
    readers = [rank for rank, pieces in enumerate(messages) if length(pieces[0]) > limit]
    written: Pieces = []
    parts: list[tuple[int, int]] = []
    end = 0
    for rank in readers:
        head, *rest = messages[rank]
        padding = bytes(-end % ALIGNMENT)
        written += (padding, memoryview(head)[HEAD_SIZE:], *rest)
        start, end = end + len(padding), end + len(padding) + length(head) - HEAD_SIZE
        parts.append((start, end - start))
    try:
        key = connector.put(written)  # its writer or its last reader removes it
    except Exception as error:
        return Outgoing([[failure(error)]] * len(messages), error=error)
    if len(messages) == 1:
        return Outgoing([[own_file(key)]], key)
    for rank, part in zip(readers, parts, strict=True):
        messages[rank] = [_message(wire.PART_OF_FILE, _PART.pack(key.pack(), *part))]
    return Outgoing(messages, key, readers)


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


def split(message: Pieces, at: int) -> tuple[Message, Message]:
    """Return the first `at` bytes of a message, and its rest, uncopied if that is one array."""
    if len(message) == 1 and len(message[0]) <= at:
        return message[0], b""
    if len(message) == 2 and len(message[0]) <= at:
        first, data = message
        rest = memoryview(data)
        cut = at - len(first)
        return b"".join((first, rest[:cut])), rest[cut:]
    whole = memoryview(joined(message))
    return whole[:at], whole[at:]


def empty(nbytes: int) -> memoryview:
    """Return writable memory, which unlike a bytearray is not filled with zeros."""
    return np.empty(nbytes, np.uint8).data


def failure(error: Exception) -> bytes:
    """Return the message that makes its receiver raise `RemoteError`."""
    return _message(wire.FAILURE, b"".join(serialize(Failure(error))))


def own_file(key: FileKey) -> bytes:
    """Return the message of an object that has its own file."""
    return _message(wire.OWN_FILE, key.pack())


def own_file_key(message: Message) -> FileKey | None:
    """Return the key of the object if it has its own file, else None."""
    if len(message) != HEAD_SIZE + KEY_SIZE or message[0] != wire.OWN_FILE:
        return None
    return FileKey.unpack(memoryview(message)[HEAD_SIZE:])


def length(message: Message) -> int:
    """Return the length of a whole message, by its head."""
    nbytes: int = _HEAD.unpack_from(message)[1]
    return HEAD_SIZE + nbytes


def is_stand_by(message: Message) -> bool:
    """Return whether a message is `STAND_BY`."""
    return message[0] == wire.STAND_BY


def is_in_file(message: Message) -> bool:
    """Return whether the object is in a file; its writer may wait to remove that."""
    return message[0] in (wire.OWN_FILE, wire.PART_OF_FILE)


def decode(connector: FileConnector, message: Message, rank: int, host: str, *, last: bool) -> Any:
    """Return the object of a message from `rank`; the `last` reader of a file removes it.

    `RemoteError` if the sender failed, `MissingObjectError` if the file is gone.
    """
    kind = message[0]
    body = memoryview(message)[HEAD_SIZE : length(message)]
    if kind == wire.OBJECT:
        return _loaded(body)
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
    return _loaded(data)


def _loaded(data: Any) -> Any:
    """Return an object, or raise what its own class raises while it is loaded, as mpi4py does."""
    try:
        return deserialize(data)
    except SerializationError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, (ImportError, AttributeError)):
            raise
        raise cause from None


@contextlib.contextmanager
def _evicted(connector: FileConnector, key: FileKey, last: bool) -> Iterator[None]:
    """Remove a file after the block if this reader is the `last`, even if the block raises."""
    try:
        yield
    finally:
        if last:
            with contextlib.suppress(FsExchangeError):
                connector.evict(key)


def _object(frames: Frames) -> Pieces:
    nbytes = sum(map(len, frames))
    head = _HEAD.pack(wire.OBJECT, nbytes)
    if nbytes <= _JOINED_UP_TO:
        return [bytearray().join((head, *frames))]
    return [head + frames[0], *frames[1:]]


def _message(first_byte: int, body: bytes) -> bytes:
    return _HEAD.pack(first_byte, len(body)) + body


#: The root says that it writes a file first, which takes a while.
STAND_BY: Pieces = [_message(wire.STAND_BY, b"")]

#: A sender that has promised a message was stopped by Ctrl-C.
INTERRUPTED: Pieces = [failure(InterruptedError("the sender was interrupted"))]
