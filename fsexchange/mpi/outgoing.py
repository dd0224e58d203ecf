"""Outgoing: what a rank sends in one call of a collective verb.

A small object is its packet. A larger one for ranks of this host lies in this rank's slab, and its
packet is the placeholder of `bodies`, which fetches it. Of every other object the packet is the
start of a message.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from fsexchange.mpi.bodies import Placed
from fsexchange.mpi.limits import THROUGH_SLAB
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
    from fsexchange.mpi.bodies import Bodies
    from fsexchange.mpi.codec import Encoded
    from fsexchange.mpi.message import Pieces

#: What a rank sends in place of an object.
Make = Callable[[Any], Any]

# A rank's packet to itself where not all is small: it makes its own object of what it has encoded.
_TO_ITSELF = pickle.dumps(None, 5)


class Outgoing:
    """What a rank sends in one call of a verb, if its packets do not hold it all."""

    def __init__(self, encoded: Sequence[Encoded], error: Exception | None = None) -> None:
        #: The object, or that of each rank; none if there is an error.
        self.encoded = encoded
        #: The error that the sender raises after it has sent its messages, which carry it, too.
        self.error = error
        #: The messages of which the packets are the start, by the rank that gets them; None: all.
        self.messages: dict[int | None, Pieces] = {}
        #: What lies in the slab, or will when the packets are out.
        self.placed: list[Placed] = []

    def finish(self) -> None:
        """Copy into the slab what will lie there, each body once: the packets are out.

        To be called again if it raised, as the handler of a signal may before a body is begun, for
        which others wait.
        """
        for placed in self.placed:
            placed.finish()

    def withdraw(self, kept: int = 0) -> None:
        """Take back what lies in the slab, but for so many."""
        while len(self.placed) > kept:
            self.placed.pop().withdraw()


class Outbox:
    """Makes the packets and messages of one rank, whose slab all others can read if it has one."""

    def __init__(
        self,
        encode: Callable[[Any], Encoded],
        rank: int,
        size: int,
        bodies: Bodies | None,
    ) -> None:
        self._encode = encode
        self._rank, self._size = rank, size
        self._others = [each for each in range(size) if each != rank]
        self._bodies = bodies

    def pack(
        self, call: bytes, room: int, obj: Any, make: Make | None, root: int | None = None
    ) -> tuple[bytes, Outgoing | None]:
        """Return the packet of an object for a root, or for all; `Outgoing` if it is not small.

        It has `room` bytes at most. With `make` it is of what that returns for the object. If
        encoding raises an error, the message is of that.
        """
        try:
            if make is not None:
                obj = make(obj)
            simple = simple_pickle(obj, room - CALL_SIZE)
            if simple is not None:  # most often, and so in less time
                return call + simple, None
            encoded = self._encode(obj)
            if not encoded[1] and CALL_SIZE + len(encoded[0]) <= room:
                return call + encoded[0], None
            sent = Outgoing([encoded])
            try:
                if root is not None:
                    return self._packet(call, room, encoded, root, THROUGH_SLAB, sent), sent
                if self._placed(encoded, len(self._others), THROUGH_SLAB, sent):
                    return call + sent.placed[0].placeholder, sent
                return _start(room, of_object(call, encoded), [None], sent), sent
            except BaseException:
                sent.withdraw()
                raise
        except Exception as error:  # whatever it is, others wait for a message
            return self._failed(call, room, error, [root])

    def pack_each(
        self, call: bytes, room: int, objs: Any, make: Make | None
    ) -> tuple[list[bytes], Outgoing | None]:
        """Return the packet for each rank; `Outgoing` unless all are small.

        As `pack` does. If there is an error, all ranks get the first one in place of the objects.
        """
        try:
            items = [None] * self._size if objs is None else list(objs)
            if len(items) != self._size:
                verb = the_call(call).partition(" ")[0].rstrip(",")
                raise ValueError(
                    f"{verb} takes one item for each of the {self._size} ranks, and got "
                    f"{len(items)}"
                )
            if make is not None:
                items = list(map(make, items))
            bodies: list[Any] = [*map(simple_pickle, items, repeat(room - CALL_SIZE))]
            if None not in bodies:  # most often, and so in less time
                return [*map(call.__add__, bodies)], None
            encoded = [*map(self._encode, items)]
            packets = [
                call + body for body, more in encoded if not more and CALL_SIZE + len(body) <= room
            ]
            if len(packets) == self._size:
                return packets, None
            sent = Outgoing(encoded)
            most = THROUGH_SLAB // max(1, len(self._others))
            try:
                return [
                    self._packet(call, room, each, rank, most, sent)
                    for rank, each in enumerate(encoded)
                ], sent
            except BaseException:
                sent.withdraw()
                raise
        except Exception as error:
            packet, failed = self._failed(call, room, error, self._others)
            return [packet] * self._size, failed

    def _packet(
        self, call: bytes, room: int, encoded: Encoded, rank: int, most: int, sent: Outgoing
    ) -> bytes:
        """Return the packet of an object for one rank."""
        if rank == self._rank:
            return call + _TO_ITSELF
        body, buffers = encoded
        if not buffers and CALL_SIZE + len(body) <= room:
            return call + body
        if self._placed(encoded, 1, most, sent):
            return call + sent.placed[-1].placeholder
        return _start(room, of_object(call, encoded), [rank], sent)

    def _failed(
        self, call: bytes, room: int, error: Exception, ranks: Iterable[int | None]
    ) -> tuple[bytes, Outgoing]:
        sent = Outgoing((), error)
        return _start(room, failure(call, error), ranks, sent), sent

    def _placed(self, encoded: Encoded, readers: int, most: int, sent: Outgoing) -> bool:
        """Get an object a place in the slab, for so many other ranks; False if there is none."""
        if self._bodies is None or not readers:
            return False
        placed = Placed()
        sent.placed.append(placed)
        if not self._bodies.share(placed, *encoded, readers, most):
            sent.withdraw(len(sent.placed) - 1)
            return False
        return True


def _start(room: int, message: Pieces, ranks: Iterable[int | None], sent: Outgoing) -> bytes:
    """Return the start of a message, the rest of which is sent to some ranks if there is one."""
    if length(message[0]) > room:
        sent.messages.update(dict.fromkeys(ranks, message))
    return start(message, room)
