"""Outgoing: what a rank sends in one call of a collective verb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from fsexchange.mpi.message import (
    CALL_SIZE,
    failure,
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
    packet: memoryview,
    obj: Any,
    make: Callable[[Any], Any] | None,
) -> tuple[int, Outgoing | None]:
    """Write the packet of an object's message; return its length, and what is sent beside SMALL.

    If encoding raises an error, the message is of that. With `make` it is of what that returns for
    the object.
    """
    try:
        body, buffers = encoded = encode(obj if make is None else make(obj))
        nbytes = CALL_SIZE + len(body)
        if not buffers and nbytes <= len(packet):
            packet[:nbytes] = call + body
            return nbytes, None
        sent = Outgoing([of_object(call, encoded)], [encoded])
    except Exception as error:  # whatever it is, others wait for a message
        sent = Outgoing([failure(call, error)], error=error)
    return _put_start(packet, sent.messages[0]), sent


def pack_each(
    encode: Callable[[Any], Encoded],
    call: bytes,
    packets: list[memoryview],
    objs: Any,
    make: Callable[[Any], Any] | None,
) -> tuple[list[int], Outgoing | None]:
    """Write the packet for each rank; return the lengths, and what is sent unless all are SMALL.

    If there is an error, all ranks get the first one in place of the objects.
    """
    size = len(packets)
    room = len(packets[0]) - CALL_SIZE
    encoded: list[Encoded] = []
    sizes: list[int] = []
    try:
        items = [None] * size if objs is None else list(objs)
        if len(items) != size:
            verb = the_call(call).partition(" ")[0].rstrip(",")
            raise ValueError(
                f"{verb} takes one item for each of the {size} ranks, and got {len(items)}"
            )
        if make is not None:
            items = list(map(make, items))
        bodies: list[Any] = [*map(simple_pickle, items, repeat(room))]
        if None not in bodies:  # most often, and so in less time
            for packet, body in zip(packets, bodies, strict=True):
                nbytes = CALL_SIZE + len(body)
                packet[:nbytes] = call + body
                sizes.append(nbytes)
            return sizes, None
        for packet, item in zip(packets, items):  # noqa: B905  (in less time)
            body, buffers = each = encode(item)
            encoded.append(each)
            nbytes = len(body)
            if buffers or nbytes > room:
                break
            packet[: CALL_SIZE + nbytes] = call + body
            sizes.append(CALL_SIZE + nbytes)
        else:
            return sizes, None
        encoded += map(encode, items[len(encoded) :])
        sent = Outgoing([of_object(call, each) for each in encoded], encoded)
    except Exception as error:
        sent = Outgoing([failure(call, error)] * size, error=error)
    return [*map(_put_start, packets, sent.messages)], sent


def _put_start(packet: memoryview, message: Pieces) -> int:
    first = start(message, len(packet))
    packet[: len(first)] = first
    return len(first)
