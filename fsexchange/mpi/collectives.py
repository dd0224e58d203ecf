"""Collectives: verbs that all ranks call together.

Each verb begins with packets. If all of them hold whole objects, or their placeholders, that is
all; else `Packets` moves the rests.
"""

from __future__ import annotations

import itertools
import pickle
import struct
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from mpi4py import MPI

from fsexchange.mpi import wire
from fsexchange.mpi.bodies import drop
from fsexchange.mpi.buffers import Buffer, buffer_of
from fsexchange.mpi.carriers import ByMessages, carrier
from fsexchange.mpi.message import CALL_SIZE, Message, a_call, decode, is_of, length, private
from fsexchange.mpi.outgoing import Make, Outbox, Outgoing
from fsexchange.mpi.packets import Packets

if TYPE_CHECKING:
    from fsexchange.mpi.bodies import Bodies
    from fsexchange.mpi.codec import Codec
    from fsexchange.mpi.hosts import Hosts
    from fsexchange.mpi.rooms import Rooms

_R = TypeVar("_R")

#: Where what a signal's handler raised goes; None: it is raised at the end of the verb.
Late: TypeAlias = "list[BaseException] | None"

_loads = pickle.loads

# In place of the verb of a packet: it is loaded, and its slots are free.
_LOADED = 255

# The buffers that are kept to receive in: the packet of a bcast, that of a scatter, those of all.
_TO_ALL, _OF_ONE, _OF_EACH = range(3)


class Failed(NamedTuple):
    """Stands for an object that could not be had."""

    error: Exception
    own: bool
    """Whether this rank itself could not send it."""


class Collectives:
    """The collective verbs. Each takes what a rank sends, and returns the objects that it receives.

    The error of a rank is raised there, and as `RemoteError` by every rank that waits for its
    message. What a rank sends is its object, or with `make` what that returns for it: that goes by
    no room, as a rank that could not take it from there would be out of step with the others.

    What a signal's handler raises while a rank waits, and until it has done its part, comes at the
    end of the verb, or in the list `late`: others wait for that part.
    """

    def __init__(
        self,
        internal: MPI.Intracomm,
        codec: Codec,
        hosts: Hosts,
        rooms: Rooms,
        bodies: Bodies,
        ranks_above: Sequence[int],
        inline_limit: int,
    ) -> None:
        self.internal = internal
        self.rooms = rooms
        self._hosts = hosts.names
        # Bytes from which messages go by rooms, but on a single rank: from `inline_limit` for all
        # copies of a host.
        self._inline_limit = inline_limit // hosts.most if internal.size > 1 else inf
        self._carrier = carrier(internal, hosts)
        self._packets = Packets(internal, hosts, rooms, self._carrier)
        self._number = itertools.count(1).__next__
        self.rank, self.size = internal.rank, internal.size
        # Packets that MPI's collectives carry have no room for a placeholder.
        near = isinstance(self._carrier, ByMessages) and bodies.reach(ranks_above)
        shares = all(internal.allgather(near))
        self._outbox = Outbox(codec.encode, self.rank, self.size, bodies if shares else None)
        size = self._packet = self._carrier.size
        # A call takes a buffer out, as the handler of a signal may call meanwhile, and puts it back
        # unless what it returns may show the memory.
        self._kept: dict[int, Buffer | None] = {}
        self._heads = struct.Struct(f"{CALL_SIZE}s{size - CALL_SIZE}x" * self.size).unpack

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._number()
        self.internal.Barrier()

    def bcast(self, obj: Any, root: int, make: Make | None = None, late: Late = None) -> Any:
        """Return the root's object; that of the other ranks is ignored."""
        call = a_call(wire.BCAST, root, self._number())
        if self.rank != root:
            buffer = self._kept.pop(_TO_ALL, None) or buffer_of(self._carrier.size_to_all)
            begun: list[object] = []
            raised: BaseException | None = None
            try:
                self._carrier.bcast_from(buffer, root)
                if buffer.memory.startswith(call):
                    buffer.memory[0] = _LOADED
                    obj = _loads(buffer.bodies[0])
                    self._kept[_TO_ALL] = buffer
                    return obj
                limit = self._limit(make)
                message = self._packets.bcast_from(call, buffer.memory, begun, root, limit)
            except BaseException as error:
                raised = error
                move = self._packets.bcast_from
                message = _moved(error, move, call, buffer, None, begun, root, self._limit(make))
            return _at_last(self._one(message, root), raised, late)
        packet, sent = self._outbox.pack(call, self._carrier.size_to_all, obj, make)
        if sent is None:
            self._carrier.bcast(packet, root, [])
            return _loads(packet[CALL_SIZE:])
        own: list[Any] = []

        def send(begun: list[Any]) -> Message | None:
            message, limit = sent.messages[None], self._limit(make)
            return self._packets.bcast(
                message, root, limit, lambda: own.append(self._own(sent)), begun
            )

        whole, raised = _sent(sent, send, [], self._carrier.bcast, packet, root)
        if whole is not None:
            obj = self._one(whole, root, sent)
        else:
            obj = own[0] if own else self._own(sent)
        return _at_last(obj, raised, late)

    def scatter(self, objs: Any, root: int, make: Make | None = None) -> Any:
        """Return the root's object for this rank; those of the other ranks are ignored."""
        call = a_call(wire.SCATTER, root, self._number())
        if self.rank != root:
            buffer = self._kept.pop(_OF_ONE, None) or buffer_of(self._packet)
            begun: list[object] = []
            raised: BaseException | None = None
            try:
                self._carrier.scatter_from(buffer, root)
                if buffer.memory.startswith(call):
                    buffer.memory[0] = _LOADED
                    obj = _loads(buffer.bodies[0])
                    self._kept[_OF_ONE] = buffer
                    return obj
                message = self._packets.scatter_from(call, buffer.memory, begun, root)
            except BaseException as error:
                raised = error
                move = self._packets.scatter_from
                message = _moved(error, move, call, buffer, None, begun, root)
            return _at_last(self._one(message, root), raised)
        packets, sent = self._outbox.pack_each(call, self._packet, objs, make)
        if sent is None:
            self._carrier.scatter(packets, root, [])
            return _loads(packets[root][CALL_SIZE:])
        sending: list[MPI.Request] = []
        move_all = partial(self._packets.scatter, call, sent.messages)
        try:
            _, raised = _sent(sent, move_all, sending, self._carrier.scatter, packets, root)
            return _at_last(self._own(sent), raised)
        finally:
            MPI.Request.Waitall(sending)

    def gather(self, obj: Any, root: int, make: Make | None = None) -> list[Any] | None:
        """Return the objects of all ranks on the root, None on the others."""
        objs = self.gather_some(wire.GATHER, obj, root, make)
        return None if objs is None else checked(objs)

    def gather_some(
        self, verb: int, obj: Any, root: int, make: Make | None = None, late: Late = None
    ) -> list[Any] | None:
        """Return as `gather` does, `Failed` in place of what could not be had."""
        call = a_call(verb, root, self._number())
        packet, sent = self._outbox.pack(call, self._packet, obj, make, root)
        if self.rank != root:
            if sent is None and late is None:  # most often, and so in less time
                self._carrier.gather(packet, root, [])
                return None
            if sent is None:
                sent = Outgoing(())

            def send(begun: list[Any]) -> None:
                self._packets.gather(sent.messages[root], root, self._limit(make), begun)

            _, raised = _sent(sent, send, [], self._carrier.gather, packet, root)
            if sent.error is not None:
                raise sent.error
            return _at_last(None, raised, late)
        buffer = self._buffer_with(packet)
        begun: list[object] = []
        raised = None
        try:
            self._carrier.gathered(buffer, root)
            objs = self._small(call, buffer, sent)
            if objs is not None:
                return objs
            messages = self._packets.gathered(call, buffer.memory, begun, self._limit(make))
            objs = self._each(messages, sent, buffer)
        except BaseException as error:
            raised = error
            move = self._packets.gathered
            messages = _moved(error, move, call, buffer, root, begun, self._limit(make))
            objs = self._each(messages, sent, buffer)
        return _at_last(objs, raised, late)

    def allgather(self, obj: Any, make: Make | None = None, late: Late = None) -> list[Any]:
        """Return the objects of all ranks."""
        return checked(self.allgather_some(wire.ALLGATHER, obj, make, late))

    def allgather_some(
        self, verb: int, obj: Any, make: Make | None = None, late: Late = None
    ) -> list[Any]:
        """Return as `allgather` does, `Failed` in place of what could not be had."""
        call = a_call(verb, 0, self._number())
        packet, sent = self._outbox.pack(call, self._packet, obj, make)
        buffer = self._buffer_with(packet)
        begun: list[object] = []
        raised: BaseException | None = None
        try:
            if sent is None:
                self._carrier.allgather(packet, buffer)
            else:
                _send(sent, self._carrier.allgather, packet, buffer)
            objs = self._small(call, buffer, sent)
            if objs is not None:
                return objs
            message = None if sent is None else sent.messages.get(None)
            limit = self._limit(make)
            messages = self._packets.allgathered(call, buffer.memory, begun, message, limit)
            objs = self._each(messages, sent, buffer)
        except BaseException as error:
            raised = error
            message = None if sent is None else sent.messages.get(None)
            limit = self._limit(make)
            move = self._packets.allgathered
            messages = _moved(error, move, call, buffer, self.rank, begun, message, limit)
            objs = self._each(messages, sent, buffer)
        return _at_last(objs, raised, late)

    def alltoall(self, objs: Any, make: Make | None = None, late: Late = None) -> list[Any]:
        """Return the objects of all ranks for this one."""
        call = a_call(wire.ALLTOALL, 0, self._number())
        packets, sent = self._outbox.pack_each(call, self._packet, objs, make)
        buffer = self._buffer_with(packets[self.rank])
        begun: list[object] = []
        raised: BaseException | None = None
        rests = {} if sent is None else sent.messages
        try:
            if sent is None:
                self._carrier.alltoall(packets, buffer)
            else:
                _send(sent, self._carrier.alltoall, packets, buffer)
            received = self._small(call, buffer, sent)
            if received is not None:
                return checked(received)
            messages = self._packets.alltoalled(call, buffer.memory, begun, rests)
            received = self._each(messages, sent, buffer)
        except BaseException as error:
            raised = error
            move = self._packets.alltoalled
            messages = _moved(error, move, call, buffer, self.rank, begun, rests)
            received = self._each(messages, sent, buffer)
        return checked(_at_last(received, raised, late))

    def _buffer_with(self, packet: bytes) -> Buffer:
        """Return memory for the packets of all ranks, with this rank's own in its place."""
        buffer = self._kept.pop(_OF_EACH, None) or buffer_of(self._packet, self.size)
        buffer.packets[self.rank][: len(packet)] = packet
        return buffer

    def _limit(self, make: Make | None) -> float:
        return self._inline_limit if make is None else inf

    def by_room(self, nbytes: int, least: int) -> bool:
        """Return whether a result that all ranks make together goes by a room.

        From `least` bytes on that is faster than messages, wherever the limit is.
        """
        return self.size > 1 and (nbytes >= least or nbytes > self._inline_limit)

    def _small(self, call: bytes, buffer: Buffer, sent: Outgoing | None) -> list[Any] | None:
        """Return the objects of the packets of all ranks, `Failed` in place of what cannot be had.

        None if one of them holds no whole object, or if messages are `sent` behind this rank's.
        """
        if self._heads(buffer.memory).count(call) != self.size or (sent and sent.messages):
            return None
        objs: list[Any] = [None] * self.size
        if sent is not None:  # first, as the others may still fill slots
            try:
                objs[self.rank] = self._own(sent)
            except Exception as error:  # all others are loaded, too, which frees their slots
                objs[self.rank] = Failed(error, own=False)
        memory, size, own = buffer.memory, self._packet, -1 if sent is None else self.rank
        for rank, body in enumerate(buffer.bodies):
            if rank != own:
                try:
                    memory[rank * size] = _LOADED
                    objs[rank] = _loads(body)
                except Exception as error:
                    objs[rank] = Failed(error, own=False)
        self._kept[_OF_EACH] = buffer
        return objs

    def _one(self, message: Message, rank: int, sent: Outgoing | None = None) -> Any:
        """Return the object of a message from a rank; of this rank's own `sent` tells its error."""
        if sent is not None and sent.error is not None:
            raise sent.error
        return decode(message, rank, self._hosts[rank])

    def _each(
        self, messages: Sequence[Message], sent: Outgoing | None, buffer: Buffer
    ) -> list[Any]:
        """Return the objects of the messages of all ranks, `Failed` in place of what cannot be had.

        This rank's own is made of what it `sent` if its message is not whole. The buffer is kept
        if no object may show its memory.
        """
        objs: list[Any] = [None] * self.size
        shows = False
        for rank, message in enumerate(messages):
            mine = sent if rank == self.rank else None
            try:
                if mine is not None and not _is_whole(message):
                    objs[rank] = self._own(mine)
                else:
                    shows = shows or (
                        type(message) is memoryview
                        and message.obj is buffer.memory
                        and message[1] != wire.SMALL
                    )
                    buffer.packets[rank][0] = _LOADED  # the message may be a copy of it
                    objs[rank] = self._one(message, rank, mine)
            except Exception as error:
                shows = True
                objs[rank] = Failed(error, own=mine is not None and mine.error is error)
        if not shows:
            self._kept[_OF_EACH] = buffer
        return objs

    def _own(self, sent: Outgoing) -> Any:
        """Return the object that this rank has sent to itself."""
        if sent.error is not None:
            raise sent.error
        return private(sent.encoded[self.rank if len(sent.encoded) > 1 else 0])


def _is_whole(message: Message) -> bool:
    """Return whether a rank's own message is here: what is SMALL it does not send to itself."""
    return message[1] != wire.SMALL and len(message) >= length(message)


def _send(sent: Outgoing, carry: Callable[..., None], *args: Any) -> None:
    """Send packets, then copy into the slab what they refer to: others wait for it."""
    try:
        carry(*args)
        sent.finish()
    finally:
        sent.finish()


def _sent(
    sent: Outgoing,
    move: Callable[[list[Any]], _R],
    begun: list[Any],
    carry: Callable[..., None],
    *args: Any,
) -> tuple[_R | None, BaseException | None]:
    """Send packets, then move what they do not hold; return what a handler raised meanwhile."""
    out: list[None] = []
    try:
        _send(sent, carry, *args, out)
        return move(begun) if sent.messages else None, None
    except BaseException as error:
        if not out or begun:
            raise
        return move(begun) if sent.messages else None, error


def _moved(
    error: BaseException,
    move: Callable[..., _R],
    call: bytes,
    buffer: Buffer,
    own: int | None,
    begun: list[object],
    *args: Any,
) -> _R:
    """Move what packets of a call do not hold, if they are all here; else raise the error.

    A handler has raised it before this had begun, for which others wait. If that is not so, or this
    fails, what packets tell of that were not loaded is given up.
    """
    try:
        if begun or not all(is_of(packet, call) for packet in buffer.packets):
            raise error
        return move(call, buffer.memory, begun, *args)
    except BaseException:
        for rank, packet in enumerate(buffer.packets):
            if rank != own and packet[:CALL_SIZE] == call:
                drop(buffer.bodies[rank])
        raise


def _at_last(obj: _R, raised: BaseException | None, late: Late = None) -> _R:
    """Return an object; raise what a handler raised, or append it to what comes late."""
    if raised is not None and late is None:
        raise raised
    if raised is not None and late is not None:
        late.append(raised)
    return obj


def checked(objs: list[Any]) -> list[Any]:
    """Return the objects; raise this rank's own error, or the first, in place of one."""
    for obj in objs:
        if type(obj) is Failed:
            failed = [each for each in objs if type(each) is Failed]
            raise min(failed, key=lambda each: not each.own).error
    return objs
