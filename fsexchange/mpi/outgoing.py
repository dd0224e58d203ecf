"""Outgoing: what a rank sends in one call of a collective verb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fsexchange.mpi.message import (
    CALL_SIZE,
    failure,
    of_object,
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


def small_or(
    encode: Callable[[Any], Encoded],
    call: bytes,
    room: int,
    obj: Any,
    make: Callable[[Any], Any] | None,
) -> bytes | Outgoing:
    """Return the SMALL message of an object if it has at most `room` bytes; else what to send.

    If encoding raises an error, the message of that. With `make` it is the message of what that
    returns for the object.
    """
    try:
        body, buffers = encoded = encode(obj if make is None else make(obj))
        if not buffers and len(body) <= room - CALL_SIZE:
            return call + body
        pieces = of_object(call, encoded)
    except Exception as error:  # whatever it is, others wait for a message
        return Outgoing([failure(call, error)], error=error)
    return Outgoing([pieces], [encoded])


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
        small = []
        for body, buffers in encoded:
            if buffers or len(body) > room:
                break
            small.append(call + body)
        else:
            return small
        messages = [of_object(call, each) for each in encoded]
    except Exception as error:
        return Outgoing([failure(call, error)] * size, error=error)
    return Outgoing(messages, encoded)
