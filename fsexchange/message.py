"""What travels between ranks in place of an object: the object if small, else where its file is.

    offset  size
    0       1       kind: 1 the object, 2 a file, 3 a part of a file, 4 a failure
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

from fsexchange.errors import FsExchangeError, MissingObjectError, RemoteError
from fsexchange.future import Failure
from fsexchange.keys import RECORD_SIZE, FileKey
from fsexchange.serialize import deserialize, serialize

if TYPE_CHECKING:
    from fsexchange.connector import FileConnector
    from fsexchange.serialize import Frames

#: One message as it is received.
Message: TypeAlias = "bytes | bytearray | memoryview"

#: One message as its sender has it: pieces that follow one another. The first has the head; others
#: may show the sender's own arrays.
Pieces: TypeAlias = "list[bytes | bytearray | memoryview]"

_HEAD = struct.Struct("<B7xQ")
_PART = struct.Struct(f"<{RECORD_SIZE}sQQ")

#: Bytes before the object or the record.
HEAD_SIZE = _HEAD.size

_OBJECT, _FILE, _PART_OF_FILE, _FAILURE = 1, 2, 3, 4

#: What a message begins with.
KINDS = (_OBJECT, _FILE, _PART_OF_FILE, _FAILURE)

_ALIGNMENT = 64  # of an object in a file, as of a buffer in an object

# Up to so many bytes an object is copied into one piece: that costs less than a message more.
_JOINED_UP_TO = 1 << 16


class Outgoing(NamedTuple):
    """What a rank sends in one call of a verb."""

    messages: Sequence[Pieces]
    """One, or one for each rank."""
    key: FileKey | None = None
    """The file that some of them are about; its writer removes it unless a receiver does."""
    readers: tuple[int, ...] = ()
    """For which ranks, by their place in `messages`, a part of that file is."""
    error: Exception | None = None
    """What the sender raises once it has taken its part, as its messages say already."""


def encode(connector: FileConnector, obj: Any, inline_limit: int) -> Outgoing:
    """Return one message; what is longer than `inline_limit` bytes is written to a file."""
    try:
        frames = serialize(obj)
        nbytes = sum(map(len, frames))
        if nbytes <= inline_limit:
            return Outgoing([_inline(frames, nbytes)])
        key = connector.put(frames)
        return Outgoing([[named(key)]], key)
    except Exception as error:  # whatever it is, others wait for a message
        return Outgoing([[failure(error)]], error=error)


def encode_each(
    connector: FileConnector, objs: Any, size: int, inline_limit: int, verb: str
) -> Outgoing:
    """Return a message for each of `size` ranks; what is long goes to one file for all of them."""
    try:
        items = [None] * size if objs is None else list(objs)
        if len(items) != size:
            raise ValueError(
                f"{verb} takes one item for each of the {size} ranks, and got {len(items)}"
            )
        return _encode_each(connector, items, inline_limit)
    except Exception as error:
        return Outgoing([[failure(error)]] * size, error=error)


def _encode_each(connector: FileConnector, items: Sequence[Any], inline_limit: int) -> Outgoing:
    pieces: Frames = []
    end = 0
    readers = []
    parts: list[tuple[int, int]] = []
    messages: list[Pieces] = []
    for rank, item in enumerate(items):
        frames = serialize(item)
        nbytes = sum(map(len, frames))
        if nbytes <= inline_limit:
            messages.append(_inline(frames, nbytes))
            continue
        padding = bytes(-end % _ALIGNMENT)
        pieces += (padding, *frames)
        parts.append((end + len(padding), nbytes))
        end += len(padding) + nbytes
        readers.append(rank)
        messages.append([])
    if not readers:
        return Outgoing(messages)
    key = connector.put(pieces)
    record = key.pack()
    for rank, part in zip(readers, parts, strict=True):
        messages[rank] = [_message(_PART_OF_FILE, _PART.pack(record, *part))]
    return Outgoing(messages, key, tuple(readers))


def spill(connector: FileConnector, message: Pieces) -> Outgoing:
    """Return a short message in the place of a long one, whose object is written to a file."""
    try:
        head, *rest = message
        key = connector.put([memoryview(head)[HEAD_SIZE:], *rest])
        return Outgoing([[named(key)]], key)
    except Exception as error:
        return Outgoing([[failure(error)]], error=error)


def joined(message: Pieces) -> Message:
    """Return a message in one piece, none of which is in its sender's arrays any more."""
    return message[0] if len(message) == 1 else bytearray().join(message)


def split(message: Pieces, at: int) -> tuple[Message, Message]:
    """Return the first `at` bytes of a message, and the others: not copied if of one array."""
    if len(message) == 2 and len(message[0]) <= at:
        begin, data = message
        rest = memoryview(data)
        cut = at - len(begin)
        return b"".join((begin, rest[:cut])), rest[cut:]
    whole = memoryview(joined(message))
    return whole[:at], whole[at:]


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


def _inline(frames: Frames, nbytes: int) -> Pieces:
    head = _HEAD.pack(_OBJECT, nbytes)
    if nbytes <= _JOINED_UP_TO:
        return [bytearray().join((head, *frames))]
    return [head + frames[0], *frames[1:]]


def _message(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(kind, len(body)) + body
