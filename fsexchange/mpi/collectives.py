"""Collectives: verbs that all ranks call together.

Each verb begins with packets of one length. If all of them hold whole objects, that is all;
else `Packets` moves the rests.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from mpi4py import MPI

from fsexchange.mpi import wire
from fsexchange.mpi.message import CALL_SIZE, Message, a_call, decode, length, private, start
from fsexchange.mpi.outgoing import Outgoing, small_or, small_or_each
from fsexchange.mpi.packets import PACKET_TO_ALL, Packets

if TYPE_CHECKING:
    from fsexchange.mpi.codec import Codec
    from fsexchange.mpi.hosts import Hosts
    from fsexchange.mpi.rooms import Rooms

#: What a rank sends in place of an object, see `small_or`.
Make = Callable[[Any], Any]

_loads = pickle.loads


class Failed(NamedTuple):
    """Stands for an object that could not be had."""

    error: Exception
    own: bool
    """Whether this rank itself could not send it."""


class Collectives:
    """The collective verbs. Each takes what a rank sends, and returns the objects that it receives.

    The error of a rank is raised there, and as `RemoteError` by every rank that waits for its
    message. What a rank sends is its object, or with `make` what that returns for it: that goes by
    MPI, as a rank that could not take it from elsewhere would be out of step with the others.
    """

    def __init__(
        self,
        internal: MPI.Intracomm,
        codec: Codec,
        hosts: Hosts,
        rooms: Rooms,
        inline_limit: int,
    ) -> None:
        self.internal = internal
        self.rooms = rooms
        self._encode = codec.encode
        self._hosts = hosts.names
        #: Bytes from which messages go by rooms, but on a single rank.
        self.inline_limit = inline_limit if internal.size > 1 else inf
        self._packets = Packets(internal, hosts, rooms)
        self._packet = self._packets.size
        self._calls = 0
        self.rank, self.size = internal.rank, internal.size
        self._starts = range(0, self._packet * self.size, self._packet)
        self._bodies = [at + CALL_SIZE for at in self._starts]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._calls += 1
        self.internal.Barrier()

    def bcast(self, obj: Any, root: int, make: Make | None = None) -> Any:
        """Return the root's object; that of the other ranks is ignored."""
        call = self._call(wire.BCAST, root)
        if self.rank != root:
            packet = bytearray(PACKET_TO_ALL)
            self.internal.Bcast(packet, root)
            if packet[:CALL_SIZE] == call:
                return _loads(memoryview(packet)[CALL_SIZE:])
            message = self._packets.bcast_from(call, root, packet, self._limit(make))
            return self._one(message, root)
        sent = small_or(self._encode, call, PACKET_TO_ALL, obj, make)
        if isinstance(sent, bytes):
            self.internal.Bcast(sent.ljust(PACKET_TO_ALL, b"\0"), root)
            return _loads(memoryview(sent)[CALL_SIZE:])
        shared = self._packets.bcast(sent.messages[0], root, self._limit(make))
        return self._own(sent, 0) if shared is None else self._one(shared, root, sent)

    def scatter(self, objs: Any, root: int, make: Make | None = None) -> Any:
        """Return the root's object for this rank; those of the other ranks are ignored."""
        call = self._call(wire.SCATTER, root)
        if self.rank != root:
            packet = bytearray(self._packet)
            self.internal.Scatter(None, packet, root)
            if packet[:CALL_SIZE] == call:
                return _loads(memoryview(packet)[CALL_SIZE:])
            message = self._packets.scatter_from(call, root, packet, self._limit(make))
            return self._one(message, root)
        sent = small_or_each(self._encode, call, self._packet, objs, self.size, make)
        if isinstance(sent, list):
            self.internal.Scatter(self._padded(sent), MPI.IN_PLACE, root)
            return _loads(memoryview(sent[root])[CALL_SIZE:])
        self._packets.scatter(sent.messages, root, self._limit(make))
        return self._own(sent, root)

    def gather(self, obj: Any, root: int, make: Make | None = None) -> list[Any] | None:
        """Return the objects of all ranks on the root, None on the others."""
        objs = self.gather_some(wire.GATHER, obj, root, make)
        return None if objs is None else checked(objs)

    def gather_some(
        self, verb: int, obj: Any, root: int, make: Make | None = None
    ) -> list[Any] | None:
        """Return as `gather` does, `Failed` in place of what could not be had."""
        call = self._call(verb, root)
        packet, sent = self._start(call, obj, make)
        if self.rank != root:
            self.internal.Gather(packet, None, root)
            if sent is not None:
                self._packets.gather(sent.messages[0], root, self._limit(make))
                if sent.error is not None:
                    raise sent.error
            return None
        packets = bytearray(self._packet * self.size)
        self.internal.Gather(packet, packets, root)
        small = self._small(call, packets)
        if small is not None:
            return small
        return self._each(self._packets.gathered(call, packets, self._limit(make)), sent)

    def allgather(self, obj: Any, make: Make | None = None) -> list[Any]:
        """Return the objects of all ranks."""
        return checked(self.allgather_some(wire.ALLGATHER, obj, make))

    def allgather_some(self, verb: int, obj: Any, make: Make | None = None) -> list[Any]:
        """Return as `allgather` does, `Failed` in place of what could not be had."""
        call = self._call(verb, 0)
        packet, sent = self._start(call, obj, make)
        packets = bytearray(self._packet * self.size)
        self.internal.Allgather(packet, packets)
        small = self._small(call, packets)
        if small is not None:
            return small
        message = None if sent is None else sent.messages[0]
        limit = self._limit(make)
        return self._each(self._packets.allgathered(call, packets, message, limit), sent)

    def alltoall(self, objs: Any, make: Make | None = None) -> list[Any]:
        """Return the objects of all ranks for this one."""
        call = self._call(wire.ALLTOALL, 0)
        sent = small_or_each(self._encode, call, self._packet, objs, self.size, make)
        limit = self._limit(make)
        if isinstance(sent, Outgoing):
            return checked(self._each(self._packets.alltoall(call, sent.messages, limit), sent))
        received = bytearray(self._packet * self.size)
        self.internal.Alltoall(self._padded(sent), received)
        small = self._small(call, received)
        if small is not None:
            return checked(small)
        return checked(self._each(self._packets.alltoalled(call, received, (), limit), None))

    def _call(self, verb: int, root: int) -> bytes:
        self._calls += 1
        return a_call(verb, root, self._calls)

    def _limit(self, make: Make | None) -> float:
        return self.inline_limit if make is None else inf

    def _start(self, call: bytes, obj: Any, make: Make | None) -> tuple[bytes, Outgoing | None]:
        """Return the packet of a message, and what is sent unless it is small."""
        sent = small_or(self._encode, call, self._packet, obj, make)
        if isinstance(sent, bytes):
            return sent.ljust(self._packet, b"\0"), None
        return start(sent.messages[0], self._packet).ljust(self._packet, b"\0"), sent

    def _padded(self, starts: Iterable[bytes]) -> bytes:
        return b"".join([start.ljust(self._packet, b"\0") for start in starts])

    def _small(self, call: bytes, packets: bytearray) -> list[Any] | None:
        """Return the objects of the packets of all ranks, None if one holds no whole object."""
        for at in self._starts:
            if packets[at : at + CALL_SIZE] != call:
                return None
        view = memoryview(packets)
        try:
            return [_loads(view[at:]) for at in self._bodies]
        except Exception:  # raised by an object's own class: find out which
            return self._each([view[at:] for at in self._starts], None)

    def _one(self, message: Message, rank: int, sent: Outgoing | None = None) -> Any:
        """Return the object of a message from a rank; of this rank's own `sent` tells its error."""
        if sent is not None and sent.error is not None:
            raise sent.error
        return decode(message, rank, self._hosts[rank])

    def _each(self, messages: Sequence[Message], sent: Outgoing | None) -> list[Any]:
        """Return the objects of the messages of all ranks, `Failed` in place of what cannot be had.

        This rank's own is made of what it `sent` if its message is not whole.
        """
        objs: list[Any] = []
        for rank, message in enumerate(messages):
            mine = sent if rank == self.rank else None
            try:
                if mine is not None and len(message) < length(message):
                    objs.append(self._own(mine, rank))
                else:
                    objs.append(self._one(message, rank, mine))
            except Exception as error:
                objs.append(Failed(error, own=mine is not None and mine.error is error))
        return objs

    def _own(self, sent: Outgoing, rank: int) -> Any:
        """Return the object that this rank has sent to itself."""
        if sent.error is not None:
            raise sent.error
        return private(sent.encoded[rank if len(sent.messages) > 1 else 0])


def checked(objs: list[Any]) -> list[Any]:
    """Return the objects; raise this rank's own error, or the first, in place of one."""
    for obj in objs:
        if type(obj) is Failed:
            failed = [each for each in objs if type(each) is Failed]
            raise min(failed, key=lambda each: not each.own).error
    return objs
