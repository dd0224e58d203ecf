"""Outgoing: what a rank sends in one call of a collective verb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fsexchange.mpi.message import (
    CALL_SIZE,
    failure,
    of_object,
    start,
    the_call,
)

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
) -> Outgoing | None:
    """Write the packet of an object's message; return what is sent unless it is SMALL.

    If encoding raises an error, the message is of that. With `make` it is of what that returns for
    the object.
    """
    try:
        body, buffers = encoded = encode(obj if make is None else make(obj))
        if not buffers and len(body) <= len(packet) - CALL_SIZE:
            packet[: CALL_SIZE + len(body)] = call + body
            return None
        sent = Outgoing([of_object(call, encoded)], [encoded])
    except Exception as error:  # whatever it is, others wait for a message
        sent = Outgoing([failure(call, error)], error=error)
    _put_starts([packet], sent)
    return sent


def pack_each(
    encode: Callable[[Any], Encoded],
    call: bytes,
    packets: list[memoryview],
    objs: Any,
    make: Callable[[Any], Any] | None,
) -> Outgoing | None:
    """Write the packet for each rank; return what is sent unless all messages are SMALL.

    If there is an error, all ranks get the first one in place of the objects.
    """
    size = len(packets)
    room = len(packets[0]) - CALL_SIZE
    encoded: list[Encoded] = []
    try:
        items = [None] * size if objs is None else list(objs)
        if len(items) != size:
            verb = the_call(call).partition(" ")[0].rstrip(",")
            raise ValueError(
                f"{verb} takes one item for each of the {size} ranks, and got {len(items)}"
            )
        if make is not None:
            items = list(map(make, items))
        for packet, item in zip(packets, items):  # noqa: B905  (in less time)
            body, buffers = each = encode(item)
            encoded.append(each)
            nbytes = len(body)
            if buffers or nbytes > room:
                break
            packet[: CALL_SIZE + nbytes] = call + body
        else:
            return None
        encoded += map(encode, items[len(encoded) :])
        sent = Outgoing([of_object(call, each) for each in encoded], encoded)
    except Exception as error:
        sent = Outgoing([failure(call, error)] * size, error=error)
    _put_starts(packets, sent)
    return sent


def _put_starts(packets: list[memoryview], sent: Outgoing) -> None:
    for packet, message in zip(packets, sent.messages, strict=True):
        first = start(message, len(packet))
        packet[: len(first)] = first
