"""Packets: collectives that move messages of any length, each in two steps.

The first step moves packets, see `carriers`. A packet holds an object or the placeholder of one,
see `outgoing`, or it is the start of a message: its head tells which call it is of and how long the
message is. The second step moves the rests, if there are any: a rest for all ranks by a collective,
but that of a bcast among few ranks of one host by messages, as a rest for a single rank: straight
from the sender's array. mpi4py's verbs move lengths first, then data; here a small message needs
only the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, chain, repeat, starmap
from types import MappingProxyType
from typing import TYPE_CHECKING

from mpi4py import MPI

from fsexchange.errors import MismatchError
from fsexchange.mpi import wire
from fsexchange.mpi.carriers import ByMessages
from fsexchange.mpi.message import (
    Message,
    Pieces,
    failure,
    is_of,
    joined,
    length,
    number_of,
    rest,
    the_call,
)
from fsexchange.mpi.pace import Pace
from fsexchange.mpi.received import empty
from fsexchange.mpi.room import MemoryRoom, Room, content, pages, within
from fsexchange.serialize.format import ALIGNMENT

if TYPE_CHECKING:
    from fsexchange.mpi.carriers import Carrier
    from fsexchange.mpi.hosts import Hosts
    from fsexchange.mpi.relay import Parts
    from fsexchange.mpi.rooms import Rooms

try:
    from fsexchange.mpi import _native as _native
except ImportError:
    _native = None  # type: ignore[assignment]

# Whether a copy past the caches may be worth it, on AMD's processors: see `_native.c`. On Intel's
# stores past them took 1.3 to 2.5 times as long as plain ones.
_STREAMS = _native is not None and bool(_native.STREAMS)

# A message of fewer bytes, beside others in memory that is so many times larger, gets its own:
# else a small object would keep all of it.
_COPIED_BELOW = 1 << 16
_TIMES_LARGER = 16

# Bytes by which the memory for a message is past a multiple of 64, as large arrays of malloc's are.
# Where both are, process_vm_readv(2) copies 256 KiB to 1 MiB in 0.9 of the time (Xeon).
_PAST = 16

_NONE: Mapping[int, Message] = MappingProxyType({})


class Packets:
    """The messages of collectives among the ranks of a communicator.

    Each method takes the call that all messages must be of; `MismatchError` if one is of another.
    Messages of more than `limit` bytes go by rooms where that is possible, see `Rooms`. If a method
    raises before `begun` has something, it is to be called again, as other ranks wait for this one.
    """

    def __init__(self, comm: MPI.Intracomm, hosts: Hosts, rooms: Rooms, carrier: Carrier) -> None:
        self._comm = comm
        self._rank, self._ranks = comm.rank, range(comm.size)
        self._hosts, self._rooms = hosts, rooms
        self._size, self._size_to_all = carrier.size, carrier.size_to_all
        self._sends_to_each = isinstance(carrier, ByMessages)
        self._pace = Pace()

    # ---- one root -------------------------------------------------------------------------------

    def bcast(
        self,
        message: Pieces,
        root: int,
        limit: float,
        own: Callable[[], object],
        begun: list[object],
    ) -> Message | None:
        """Send all ranks the root's message, of which they have the packet.

        Return it if there is a copy of it now; else `own` was called meanwhile.
        """
        total = length(message[0])
        shared = self._by_room(total, root, message, limit, begun)
        if shared is not None:
            return shared
        if not self._sends_to_each:
            begun.extend(map(self._comm.Bcast, (rest(message, self._size_to_all),), (root,)))
            own()
            return None
        # To each of few ranks: they take the data out of this one's memory at the same time, and it
        # makes its own copy meanwhile. With MPICH, 2 and 4 ranks and 64 KiB to 32 MiB this takes
        # 0.6 to 0.9 of the time of Bcast and a copy. Or it makes the copy first, past its caches,
        # and they take that: then the caller's array is in no other core's caches when it is
        # written to next. Of bytes no copy is needed, and of many pieces one to send.
        past = _STREAMS and type(message[-1]) is not bytes and self._pace.way(total)
        whole = _copied(message, past) if past or len(message) > 2 else None
        data = rest(message if whole is None else [whole], self._size_to_all)
        sent = {rank: data for rank in self._ranks if rank != root}
        self._exchange(bytes(message[0]), {}, (), begun, sent, own if whole is None else bool)
        return whole

    def bcast_from(
        self, call: bytes, packet: Message, begun: list[object], root: int, limit: float
    ) -> Message:
        """Return the root's message, whose packet is here."""
        total = self._length(call, packet, root)
        if total <= self._size_to_all:
            return packet
        shared = self._by_room(total, root, [], limit, begun)
        if shared is not None:
            return shared
        whole = _empty(total)
        whole[: self._size_to_all] = packet
        into = whole[self._size_to_all :]
        if self._sends_to_each:
            begun.extend(map(self._comm.Recv, (into,), (root,), (rest_tag(call),)))
        else:
            begun.extend(map(self._comm.Bcast, (into,), (root,)))
        return whole

    def _by_room(
        self, nbytes: int, root: int, message: Pieces, limit: float, begun: list[object]
    ) -> Message | None:
        if nbytes <= limit:
            return None

        def write(room: Room, start: int, stop: int) -> None:
            room.fill(within(content(message, 0), start, stop), alone=True)

        return self._rooms.for_all(
            nbytes,
            lambda room: write(room, 0, nbytes) if message else None,
            lambda room: [(root, room.memory)],
            write if message else None,
            begun=begun,
        )

    def scatter(
        self, call: bytes, messages: dict[int | None, Pieces], begun: list[MPI.Request]
    ) -> None:
        """Send ranks their messages, of which they have the packets.

        `begun` gets the requests for what is not sent yet.
        """
        self._post(begun, rest_tag(call), self._rests(messages))

    def scatter_from(self, call: bytes, packet: Message, begun: list[object], root: int) -> Message:
        """Return the root's message, whose packet is here."""
        messages = {root: packet}
        total = self._length(call, packet, root)
        if total > self._size:
            self._exchange(call, messages, [root], begun)
        return messages[root]

    def gather(self, message: Pieces, root: int, limit: float, begun: list[object]) -> None:
        """Send the root this rank's message, of which it has the packet."""

        def send() -> None:
            sent = rest(message, self._size), root, rest_tag(message[0])
            begun.extend(starmap(self._comm.Send, (sent,)))

        if length(message[0]) > limit and root in self._hosts.near:
            self._rooms.hand_in(root, message, send, begun)
        else:
            send()

    def gathered(
        self, call: bytes, packets: bytearray, begun: list[object], limit: float
    ) -> list[Message]:
        """Return the messages of all ranks, whose packets are here."""
        messages, lengths = self._cut(call, packets)
        lengths[self._rank] = 0  # the root has its own
        if max(lengths) <= self._size:
            return [*messages.values()]
        long = self._long(lengths, limit)
        missed: list[int] = []
        try:
            if long:
                taken = self._rooms.collect({rank: lengths[rank] for rank in long}, missed, begun)
                lost = joined(failure(call, InterruptedError("the sender was interrupted")))
                messages.update((n, lost if each is None else each) for n, each in taken.items())
        finally:  # the others send theirs, whatever a handler of a signal raised
            if begun or not long:
                left = [rank for rank in self._ranks if rank not in long or rank in missed]
                self._exchange(call, messages, left, begun)
        return [*messages.values()]

    # ---- all ranks ------------------------------------------------------------------------------

    def allgathered(
        self,
        call: bytes,
        packets: bytearray,
        begun: list[object],
        message: Pieces | None,
        limit: float,
    ) -> list[Message]:
        """Return the messages of all ranks, whose packets are here; `message` is this rank's."""
        size = self._size
        messages, lengths = self._cut(call, packets)
        if max(lengths) <= size:
            return [*messages.values()]
        if sum(lengths) > limit:
            places: dict[int, int] = {}
            end = 0
            for rank in self._hosts.in_order:
                if lengths[rank] > size:
                    places[rank] = end
                    end += pages(lengths[rank])
            shared = self._all_by_room(end, places, lengths, message, begun)
            if shared is not None:
                view = memoryview(shared)
                for rank, at in places.items():
                    messages[rank] = view[at : at + lengths[rank]]
                return _unpinned(messages, end)
        counts = [n + -n % ALIGNMENT if n > size else 0 for n in lengths]
        starts = [*accumulate(counts, initial=0)]
        memory = empty(starts.pop())
        if message is not None and counts[self._rank]:
            for at, piece in content(message, starts[self._rank]):
                memory[at : at + len(piece)] = piece
        if len(set(counts)) == 1:  # with MPICH in two thirds of the time of Allgatherv, and less
            whole = [memory, counts[0], MPI.BYTE]
            begun.extend(map(self._comm.Allgather, (MPI.IN_PLACE,), (whole,)))
        else:
            parts = memory, counts, starts, MPI.BYTE
            begun.extend(map(self._comm.Allgatherv, (MPI.IN_PLACE,), (parts,)))
        for rank, at in enumerate(starts):
            if counts[rank]:
                messages[rank] = memory[at : at + lengths[rank]]
        return _unpinned(messages, len(memory))

    def _all_by_room(
        self,
        nbytes: int,
        places: dict[int, int],
        lengths: list[int],
        message: Pieces | None,
        begun: list[object],
    ) -> Message | None:
        def fill(room: Room) -> None:
            if self._rank in places and message is not None:
                room.fill(content(message, places[self._rank]))

        def parts(room: MemoryRoom) -> Parts:
            return [
                (rank, room.memory[at : at + pages(lengths[rank])]) for rank, at in places.items()
            ]

        return self._rooms.for_all(nbytes, fill, parts, begun=begun)

    def alltoalled(
        self,
        call: bytes,
        packets: bytearray,
        begun: list[object],
        messages: dict[int | None, Pieces],
    ) -> list[Message]:
        """Return the messages of all ranks for this one, whose packets are here.

        `messages` are those of this rank of which the others have the packets.
        """
        received, _ = self._cut(call, packets)
        self._exchange(call, received, self._ranks, begun, self._rests(messages))
        return [*received.values()]

    # ---- parts of these -------------------------------------------------------------------------

    def _long(self, lengths: Sequence[int], limit: float) -> list[int]:
        """Return the other ranks of this host whose messages, of such lengths, go by a room."""
        least = max(limit, self._size)
        near = self._hosts.near if lengths else ()
        return [rank for rank in near if lengths[rank] > least and rank != self._rank]

    def _length(self, call: bytes, packet: Message, rank: int) -> int:
        """Return the length of a rank's message; `MismatchError` if it is of another call."""
        if not is_of(packet, call):
            host, own = self._hosts.names[rank], self._hosts.names[self._rank]
            raise MismatchError(
                f"rank {self._rank} ({own}) is in {the_call(call)}, and rank {rank} ({host}) in "
                f"{the_call(packet)}: all ranks must call the same verbs in the same order",
                rank=rank,
                host=host,
            )
        return length(packet)

    def _cut(self, call: bytes, packets: bytearray) -> tuple[dict[int, Message], list[int]]:
        """Return what is here of each rank's message, all of the call, and their lengths."""
        view, size = memoryview(packets), self._size
        came: dict[int, Message] = {n: view[n * size : n * size + size] for n in self._ranks}
        return came, [self._length(call, packet, rank) for rank, packet in came.items()]

    def _rests(self, messages: dict[int | None, Pieces]) -> dict[int, Message]:
        """Return by rank the rests of messages to other ranks, uncopied; there may be none."""
        return {
            rank: rest(message, self._size)
            for rank, message in messages.items()
            if rank is not None
        }

    def _exchange(
        self,
        call: bytes,
        messages: dict[int, Message],
        sources: Iterable[int],
        begun: list[object],
        sent: Mapping[int, Message] = _NONE,
        meanwhile: Callable[[], object] = bool,
    ) -> None:
        """Replace the packets of some other ranks by messages that are whole, and send rests."""
        into: dict[int, Message] = {}
        for rank in sources:
            total = length(messages[rank])
            if rank != self._rank and total > len(messages[rank]):
                whole = _empty(total)
                whole[: self._size] = messages[rank]
                messages[rank] = whole
                into[rank] = whole[self._size :]
        tag = rest_tag(call)
        if into.keys() == sent.keys() and len(sent) == 1:  # in less time
            ((rank, data),) = sent.items()
            both = data, rank, tag, into[rank], rank, tag
            begun.extend(starmap(self._comm.Sendrecv, (both,)))
            meanwhile()
            return
        requests: list[MPI.Request] = []
        try:
            self._post(requests, tag, sent, into)
            meanwhile()
        finally:
            begun.extend(requests)
            MPI.Request.Waitall(requests)

    def _post(
        self,
        requests: list[MPI.Request],
        tag: int,
        sent: Mapping[int, Message],
        into: Mapping[int, Message] = _NONE,
    ) -> None:
        """Send rests to ranks and receive others from ranks; `requests` gets the requests."""
        tags = repeat(tag)
        receives = map(self._comm.Irecv, into.values(), into, tags)
        sends = map(self._comm.Isend, sent.values(), sent, tags)
        calls = chain(receives, sends)
        # In C: the handler of a signal that raised between two would leave a rank without its own,
        # or a request that nobody waits for, while memory is under way.
        requests.extend(calls)


def _empty(nbytes: int) -> memoryview:
    """Return memory for a message whose rest the kernel copies from another process."""
    return empty(nbytes + _PAST)[_PAST:]


def _copied(message: Pieces, past: bool = False) -> memoryview:
    """Return a message in one piece, written past the caches of this core if `past`."""
    whole = _empty(length(message[0]))
    for at, piece in content(message, 0):
        if past:
            _native.copy_past(whole[at:], piece)
        else:
            whole[at : at + len(piece)] = piece
    return whole


def rest_tag(head: Message) -> int:
    """Return the tag of the rests of a call, by the head of one of its messages."""
    return wire.REST + number_of(head) % wire.RESTS


def _unpinned(messages: dict[int, Message], nbytes: int) -> list[Message]:
    """Return messages that share `nbytes` bytes, with copies of those that are small beside all."""
    own = min(_COPIED_BELOW, nbytes // _TIMES_LARGER)
    return [bytearray(each) if len(each) < own else each for each in messages.values()]
