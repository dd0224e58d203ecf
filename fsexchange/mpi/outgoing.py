"""Outgoing: what a rank sends in one call of a collective verb, as messages or by a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fsexchange.mpi.message import (
    CALL_SIZE,
    failure,
    in_one_file,
    length,
    of_object,
    own_file,
    part_of_file,
    the_call,
)

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector
    from fsexchange.connector.keys import FileKey
    from fsexchange.mpi.codec import Encoded
    from fsexchange.mpi.message import Pieces


class Outgoing(NamedTuple):
    """What a rank sends in one call of a verb."""

    messages: Sequence[Pieces]
    """One message, or one for each rank."""
    encoded: Sequence[Encoded | None] = ()
    """The object of each message, None where that refers to a file; none if there is an error."""
    key: FileKey | None = None
    """The key of the file that messages refer to; its writer removes it, unless a receiver does."""
    readers: Sequence[int] = ()
    """The ranks whose messages refer to a part of that file."""
    error: Exception | None = None
    """The error that the sender raises after it has sent its messages, which carry it, too."""
    longest: int = 0
    """Bytes of the longest message that may move to a file."""


def small_or(
    encode: Callable[[Any], Encoded],
    call: bytes,
    room: int,
    obj: Any,
    make: Callable[[Any], Any] | None,
) -> bytes | Outgoing:
    """Return the SMALL message of an object if it has at most `room` bytes; else what to send.

    If encoding raises an error, the message of that. With `make` it is the message of what that
    returns for the object, and never moves to a file: a rank that could not read the file would be
    out of step with the others.
    """
    try:
        body, buffers = encoded = encode(obj if make is None else make(obj))
        if not buffers and len(body) <= room - CALL_SIZE:
            return call + body
        pieces = of_object(call, encoded)
    except Exception as error:  # whatever it is, others wait for a message
        return Outgoing([failure(call, error)], error=error)
    return Outgoing([pieces], [encoded], longest=length(pieces[0]) if make is None else 0)


def small_or_each(
    encode: Callable[[Any], Encoded],
    call: bytes,
    room: int,
    objs: Any,
    size: int,
    make: Callable[[Any], Any] | None,
) -> list[bytes] | Outgoing:
    """Return the SMALL message for each of `size` ranks if all are so; else what to send.

    If there is an error, all ranks get the first one in place of the objects.
    """
    try:
        items = [None] * size if objs is None else list(objs)
        if len(items) != size:
            verb = the_call(call).partition(" ")[0].rstrip(",")
            raise ValueError(
                f"{verb} takes one item for each of the {size} ranks, and got {len(items)}"
            )
        encoded = list(map(encode, items if make is None else map(make, items)))
        room -= CALL_SIZE
        small = [call + body for body, buffers in encoded if not buffers and len(body) <= room]
        if len(small) == size:
            return small
        messages = [of_object(call, each) for each in encoded]
    except Exception as error:
        return Outgoing([failure(call, error)] * size, error=error)
    longest = max([length(pieces[0]) for pieces in messages]) if make is None else 0
    return Outgoing(messages, encoded, longest=longest)


def spill(connector: FileConnector, call: bytes, sent: Outgoing, inline_limit: int) -> Outgoing:
    """Move the messages longer than `inline_limit` bytes to one file, to which messages refer."""
    if sent.longest <= inline_limit:
        return sent
    messages = list(sent.messages)
    readers = [rank for rank, pieces in enumerate(messages) if length(pieces[0]) > inline_limit]
    written, parts = in_one_file([messages[rank] for rank in readers])
    try:
        key = connector.put(written)  # its writer or its last reader removes it
    except Exception as error:
        return Outgoing([failure(call, error)] * len(messages), error=error)
    if len(messages) == 1:
        return Outgoing([own_file(call, key)], [None], key)
    encoded = list(sent.encoded)
    for rank, part in zip(readers, parts, strict=True):
        messages[rank] = part_of_file(call, key, *part)
        encoded[rank] = None
    return Outgoing(messages, encoded, key, readers)
