"""What travels between ranks in place of an object: the object if small, else where its file is.

    offset  size
    0       1       kind: 1 the object, 2 a file, 3 a part of a file, 4 a failure, 5 wait
    8       8       length of what follows, little-endian
    16      ...     frames of `serialize` | key record | key record, offset, length | frames

A key's own record (`FileKey.pack`) begins with none of these kinds, so neither is taken for the
other.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fsexchange.connector.keys import RECORD_SIZE, FileKey
from fsexchange.errors import FsExchangeError, MissingObjectError, RemoteError
from fsexchange.serialize import deserialize, serialize
from fsexchange.serialize.format import ALIGNMENT
from fsexchange.store.failure import Failure

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector
    from fsexchange.serialize.format import Frames

#: One message as it is received.
Message: TypeAlias = "bytes | bytearray | memoryview"

#: One message as its sender has it: pieces that follow one another. The first has the head; others
#: may show the sender's own arrays.
Pieces: TypeAlias = "list[bytes | bytearray | memoryview]"

_HEAD = struct.Struct("<B7xQ")
_PART = struct.Struct(f"<{RECORD_SIZE}sQQ")

#: Bytes before the object or the record.
HEAD_SIZE = _HEAD.size

_OBJECT, _FILE, _PART_OF_FILE, _FAILURE, _HOLD = 1, 2, 3, 4, 5

#: What a message begins with.
KINDS = (_OBJECT, _FILE, _PART_OF_FILE, _FAILURE)

# Up to so many bytes an object is copied into one piece: that costs less than a message more.
_JOINED_UP_TO = 1 << 16

# From so many bytes on numpy asks for huge pages, which Linux gets a quarter of the time.
_HUGE_PAGES_FROM = 1 << 22


class Outgoing(NamedTuple):
    """What a rank sends in one call of a verb."""

    messages: Sequence[Pieces]
    """One, or one for each rank."""
    key: FileKey | None = None
    """The file that some of them are about; its writer removes it unless a receiver does."""
    readers: Sequence[int] = ()
    """For which ranks, by their place in `messages`, a part of that file is."""
    error: Exception | None = None
    """What the sender raises once it has taken its part, as its messages say already."""
    longest: int = 0
    """Bytes of the longest object in its message."""


def encode(obj: Any) -> Outgoing:
    """Return one message."""
    try:
        pieces = _inline(serialize(obj))
        return Outgoing([pieces], longest=length(pieces[0]) - HEAD_SIZE)
    except Exception as error:  # whatever it is, others wait for a message
        return Outgoing([[failure(error)]], error=error)


def encode_each(objs: Any, size: int, verb: str) -> Outgoing:
    """Return a message for each of `size` ranks."""
    try:
        items = [None] * size if objs is None else list(objs)
        if len(items) != size:
            raise ValueError(
                f"{verb} takes one item for each of the {size} ranks, and got {len(items)}"
            )
        messages = [_inline(serialize(item)) for item in items]
        longest = max(length(pieces[0]) for pieces in messages) - HEAD_SIZE
        return Outgoing(messages, longest=longest)
    except Exception as error:
        return Outgoing([[failure(error)]] * size, error=error)


def spill(connector: FileConnector, sent: Outgoing, inline_limit: int) -> Outgoing:
    """Write the objects longer than `inline_limit` bytes to one file, which their messages name."""
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
        begin, end = end + len(padding), end + len(padding) + length(head) - HEAD_SIZE
        parts.append((begin, end - begin))
    try:
        key = connector.put(written, alone=True)  # gone with its last reader
    except Exception as error:
        return Outgoing([[failure(error)]] * len(messages), error=error)
    if len(messages) == 1:
        return Outgoing([[named(key)]], key)
    for rank, part in zip(readers, parts, strict=True):
        messages[rank] = [_message(_PART_OF_FILE, _PART.pack(key.pack(), *part))]
    return Outgoing(messages, key, readers)


def joined(message: Pieces) -> Message:
    """Return a message in one piece, none of which is in its sender's arrays any more."""
    if len(message) == 1:
        return message[0]
    nbytes = sum(map(len, message))
    if nbytes < _HUGE_PAGES_FROM:
        return bytearray().join(message)
    whole = empty(nbytes)
    end = 0
    for piece in message:
        begin, end = end, end + len(piece)
        whole[begin:end] = piece
    return whole


def split(message: Pieces, at: int) -> tuple[Message, Message]:
    """Return the first `at` bytes of a message, and the others: not copied if of one array."""
    if len(message) == 1 and len(message[0]) <= at:
        return message[0], b""
    if len(message) == 2 and len(message[0]) <= at:
        begin, data = message
        rest = memoryview(data)
        cut = at - len(begin)
        return b"".join((begin, rest[:cut])), rest[cut:]
    whole = memoryview(joined(message))
    return whole[:at], whole[at:]


def empty(nbytes: int) -> memoryview:
    """Return writable memory, unlike that of a bytearray not filled with zeros first."""
    return np.empty(nbytes, np.uint8).data


def failure(error: Exception) -> bytes:
    """Return the message that has its receiver raise `RemoteError`."""
    return _message(_FAILURE, b"".join(serialize(Failure(error))))


def named(key: FileKey) -> bytes:
    """Return the message that is about a file."""
    return _message(_FILE, key.pack())


def named_in(message: Message) -> FileKey | None:
    """Return the key of the file that a message to one rank is about, if it is about one."""
    if len(message) != HEAD_SIZE + RECORD_SIZE or message[0] != _FILE:
        return None
    return FileKey.unpack(memoryview(message)[HEAD_SIZE:])


def length(message: Message) -> int:
    """Return the length of a whole message from its first `HEAD_SIZE` bytes."""
    nbytes: int = _HEAD.unpack_from(message)[1]
    return HEAD_SIZE + nbytes


def is_hold(message: Message) -> bool:
    """Tell whether a message is `HOLD`."""
    return message[0] == _HOLD


def in_file(message: Message) -> bool:
    """Tell whether the object of a message is in a file, which its writer may wait to remove."""
    return message[0] in (_FILE, _PART_OF_FILE)


def decode(connector: FileConnector, message: Message, rank: int, host: str, *, last: bool) -> Any:
    """Return the object of a message of `rank`; its file is removed if this is the `last` reader.

    `RemoteError` if its sender failed, `MissingObjectError` if its file is gone.
    """
    kind = message[0]
    body = memoryview(message)[HEAD_SIZE : length(message)]
    if kind == _OBJECT:
        return deserialize(body)
    if kind == _FAILURE:
        told: Failure = deserialize(body)
        raise RemoteError(
            f"rank {rank} ({host}) failed in its part of this call: {told.last_line}",
            rank=rank,
            host=host,
            cause=told.error,
            traceback=told.traceback,
        )
    if kind == _FILE:
        key = FileKey.unpack(body)
        with _evicted(connector, key, last):
            data = connector.get(key)
    else:
        record, offset, nbytes = _PART.unpack(body)
        key = FileKey.unpack(record)
        with _evicted(connector, key, last):
            data = connector.get_part(key, offset, nbytes)
    if data is None:
        path = connector.path(key)
        raise MissingObjectError(f"{path} was removed before it was received", path=path)
    return deserialize(data)


@contextlib.contextmanager
def _evicted(connector: FileConnector, key: FileKey, last: bool) -> Iterator[None]:
    """Remove an object after the block, whatever happens in it: nobody else will."""
    try:
        yield
    finally:
        if last:
            with contextlib.suppress(FsExchangeError):
                connector.evict(key)


def _inline(frames: Frames) -> Pieces:
    nbytes = sum(map(len, frames))
    head = _HEAD.pack(_OBJECT, nbytes)
    if nbytes <= _JOINED_UP_TO:
        return [bytearray().join((head, *frames))]
    return [head + frames[0], *frames[1:]]


def _message(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(kind, len(body)) + body


#: Tells who receives it that the message takes as long as a file takes to write.
HOLD: Pieces = [_message(_HOLD, b"")]
