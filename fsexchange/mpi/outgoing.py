"""Outgoing: what a rank sends in one call of a collective verb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from fsexchange.mpi.message import (
    CALL_SIZE,
    failure,
    length,
    of_object,
    start,
    the_call,
)
from fsexchange.serialize.simple import simple_pickle

if TYPE_CHECKING:
    from fsexchange.mpi.codec import Encoded
    from fsexchange.mpi.message import Pieces


class Outgoing(NamedTuple):
    """What a rank sends in one call of a verb."""

    messages: Sequence[Pieces]
    """One message, or one for each rank."""
    encoded: Sequence[Encoded] = ()
    """The object of each message; none if there is an error."""
    error: Exception | None = None
    """The error that the sender raises after it has sent its messages, which carry it, too."""


def pack(
    encode: Callable[[Any], Encoded],
    call: bytes,
    room: int,
    obj: Any,
    make: Callable[[Any], Any] | None,
    place: Callable[[Pieces, int | None], bytes | None],
    rank: int | None = None,
) -> tuple[bytes, Outgoing | None]:
    """Return the packet of an object's message, of `room` bytes at most; what is sent beside SMALL.

    What `place` returns for a longer message to a rank, or to all, is the packet, unless that is
    None.

    If encoding raises an error, the message is of that. With `make` it is of what that returns for
    the object.
    """
    try:
        if make is not None:
            obj = make(obj)
        simple = simple_pickle(obj, room - CALL_SIZE)
        if simple is not None:  # most often, and so in less time
            return call + simple, None
        body, buffers = encoded = encode(obj)
        if not buffers and CALL_SIZE + len(body) <= room:
            return call + body, None
        sent = Outgoing([of_object(call, encoded)], [encoded])
    except Exception as error:  # whatever it is, others wait for a message
        sent = Outgoing([failure(call, error)], error=error)
    (message,) = sent.messages
    return (length(message[0]) > room and place(message, rank)) or start(message, room), sent


def pack_each(
    encode: Callable[[Any], Encoded],
    call: bytes,
    size: int,
    room: int,
    objs: Any,
    make: Callable[[Any], Any] | None,
    place: Callable[[Pieces, int], bytes | None],
) -> tuple[list[bytes], Outgoing | None]:
    """Return the packet for each of `size` ranks, and what is sent unless all are SMALL.

    What `place` returns for a longer message to a rank is the packet, unless that is None. If there
    is an error, all ranks get the first one in place of the objects.
    """
    encoded: list[Encoded] = []
    packets: list[bytes] = []
    try:
        items = [None] * size if objs is None else list(objs)
        if len(items) != size:
            verb = the_call(call).partition(" ")[0].rstrip(",")
            raise ValueError(
                f"{verb} takes one item for each of the {size} ranks, and got {len(items)}"
            )
        if make is not None:
            items = list(map(make, items))
        bodies: list[Any] = [*map(simple_pickle, items, repeat(room - CALL_SIZE))]
        if None not in bodies:  # most often, and so in less time
            return [*map(call.__add__, bodies)], None
        for item in items:
            body, buffers = each = encode(item)
            encoded.append(each)
            if buffers or CALL_SIZE + len(body) > room:
                break
            packets.append(call + body)
        else:
            return packets, None
        encoded += map(encode, items[len(encoded) :])
        sent = Outgoing([of_object(call, each) for each in encoded], encoded)
    except Exception as error:
        sent = Outgoing([failure(call, error)] * size, error=error)
    return [
        (length(message[0]) > room and place(message, rank)) or start(message, room)
        for rank, message in enumerate(sent.messages)
    ], sent
