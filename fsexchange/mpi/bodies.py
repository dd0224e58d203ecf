"""Bodies: where the buffers of a large message lie until its receiver has them.

In place of the message travels a placeholder: the pickle of a call of `_arrived`, which says where
the buffers are, and which fetches them when the receiver loads it. For a rank of this host they lie
in the sender's slab, if that has room or the receiver waits for them, and both have slabs; else
`Bodies._send` decides which way they take.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial, update_wrapper
from itertools import starmap
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from fsexchange.connector.connector import FileConnector
from fsexchange.errors import RemoteError, StoreClosedError
from fsexchange.mpi import gathered, limits, wire
from fsexchange.mpi.codec import (
    COPIES,
    END_1,
    OUT_OF_IT,
    OUTSIDE,
    Memory,
    called,
    decode,
    in_pickle,
    pinned_by_none,
)
from fsexchange.mpi.lending import LentMemory
from fsexchange.mpi.limits import SMALL
from fsexchange.mpi.message import Pieces
from fsexchange.mpi.received import empty, forget
from fsexchange.mpi.slab import (
    REQUESTS,
    SLOT,
    SLOTS,
    BrokenBodyError,
    Slab,
)
from fsexchange.mpi.way import Sent, Way
from fsexchange.mpi.ways import NumberedMessages, StoredFiles

if TYPE_CHECKING:
    from fsexchange.mpi.room import HostRoom

try:
    from fsexchange.mpi import _native as _native
except ImportError:
    _native = None  # type: ignore[assignment]

# Family, rank in it, kind of place, slot, record or number, bytes of the body, how many buffers.
# The length of each buffer, for memory and files their place, and the pickle of the object follow.
_SAID = struct.Struct("<8sIHHQQ")
_SLOT, _RECORD, _MEMORY, _MESSAGE, _FILE = range(5)
_PLACE_SIZES = (0, 0, LentMemory.place_size, NumberedMessages.place_size, StoredFiles.place_size)

# Where the rest of a body is that began in the slab: the kind of its place, and its number.
_REST = struct.Struct("<HQ")

# A placeholder has the pickle, up to so many bytes, and the lengths of so many buffers.
_MOST_SAID, _MOST_BUFFERS = SMALL - 1024, 64

_LENGTH = struct.Struct("<Q")

# Of whom a body is, in a placeholder: family, and rank in it.
_SENDER = struct.Struct("<8sI")

# The exchanges of this process by what placeholders call them.
_families: dict[bytes, Bodies] = {}

# The slabs of those who have sent to this process; what says that something has arrived, and that
# this process waits; what waits for its receivers.
_senders: dict[bytes, tuple[memoryview, object, memoryview, dict[int, HostRoom]]] = {}


class _Arrived(threading.local):
    """What a thread receives: other threads may meanwhile receive on other communicators."""

    nbytes = 0


class Placed:
    """The placeholder of a message; how its body is taken back, and how it gets to its place.

    Before the message is out `withdraw` may be called, once: it takes back what there is.
    """

    placeholder: bytes
    withdraw: Callable[[], object] = bool
    finish: Callable[[], object] = bool


class Bodies:
    """The bodies that one rank sends and receives, on all communicators over one directory."""

    def __init__(
        self,
        internal: MPI.Intracomm,
        connector: FileConnector,
        hosts: Sequence[str],
        slab: Slab | None,
        paths: Sequence[str | None],
        family: bytes,
        inline_limit: int,
    ) -> None:
        self._internal = internal
        self._hosts = hosts
        self._slab = slab
        self._paths = paths
        self._slabs: dict[int, Slab] = {} if slab is None else {internal.rank: slab}
        self._family = family
        self._rank = internal.rank
        self._sender = _SENDER.pack(family, internal.rank)
        self._inline_limit = inline_limit
        self._messages = NumberedMessages(internal)
        self._ways: dict[int, Way] = {_MESSAGE: self._messages, _FILE: StoredFiles(connector)}
        self._lent: LentMemory | None = None
        if slab is not None:
            self._ways[_MEMORY] = self._lent = LentMemory(connector, slab.lent, hosts)
        #: Set while the owner waits in `recv`, so that senders let it copy behind them.
        self.receiving = memoryview(bytearray(1)) if slab is None else slab.receiving
        #: What the slab has: REQUESTS from `irecv` to the next `recv`, SENDS in `place`.
        self.busy = memoryview(bytearray(1)) if slab is None else slab.busy
        self.arrived = _Arrived()
        _families[family] = self

    # ---- sender ---------------------------------------------------------------------------------

    def place(self, placed: Placed, body: Memory, buffers: Sequence[Memory], dest: int) -> None:
        """Get the body of a message to a rank to its place, or ready to go there by `finish`."""
        if self._lent is not None and self._lent.rooms:
            self._lent.look()
        if len(body) > _MOST_SAID or len(buffers) > _MOST_BUFFERS:
            buffers, body = [body, *buffers], b""
            if len(buffers) > _MOST_BUFFERS:
                buffers, body = [gathered.packed(buffers)], called(_unpacked, OUT_OF_IT)
        try:
            if not self._in_slab(placed, body, buffers, dest, 1, inf):
                self._place_past_it(placed, body, buffers, dest)
        finally:
            self.busy[0] &= REQUESTS

    def _place_past_it(
        self, placed: Placed, body: Memory, buffers: Sequence[Memory], dest: int
    ) -> None:
        sizes = [len(each) for each in buffers]
        starts = gathered.starts_of(sizes)
        nbytes = starts[-1]
        if len(body) + nbytes < SMALL:
            placed.placeholder = called(_loaded, *map(in_pickle, (body, *buffers)))
            return
        ways: list[tuple[int, Sent]] = []
        placed.withdraw = lambda: [sent.withdraw() for _, sent in ways]
        ways.extend(starmap(self._send, ((gathered.rest(buffers, starts, 0), nbytes, dest),)))
        ((kind, sent),) = ways
        placed.finish = sent.finish
        placed.placeholder = self._say(kind, sent.number, body, sizes, sent.place)

    def share(
        self, placed: Placed, body: Memory, buffers: Sequence[Memory], readers: int, most: int
    ) -> bool:
        """Place the body of a collective's message in the slab, for so many ranks of the host.

        What fits in a slot at once, the rest by `finish`, which needs no more room. False if it is
        small or takes more than `most` bytes, or there is no room.
        """
        return self._in_slab(placed, body, buffers, None, readers, most)

    def _in_slab(
        self,
        placed: Placed,
        body: Memory,
        buffers: Sequence[Memory],
        dest: int | None,
        readers: int,
        most: float,
    ) -> bool:
        """Place the body of a message in the slab, as `place` and `share` do."""
        slab = self._slab
        if slab is None or (dest is not None and self._paths[dest] is None):
            return False
        if len(body) > _MOST_SAID:
            buffers, body = [body, *buffers], b""
        held: list[int] = []
        if len(buffers) == 1 and SMALL <= len(buffers[0]) <= SLOT:
            placed.withdraw = lambda: slab.free_slots(held)
            said = _native.place(  # most messages, in less time
                slab.memory,
                held,
                readers,
                PLACEHOLDER,
                self._sender,
                bytes(body),
                buffers[0],
                END_1,
            )
            if said is not None:
                placed.placeholder = said
            return said is not None
        if len(buffers) > _MOST_BUFFERS:
            return False
        sizes = [len(each) for each in buffers]
        starts = gathered.starts_of(sizes)
        nbytes = starts[-1]
        if len(body) + nbytes < SMALL or nbytes > most:
            return False
        if nbytes <= SLOT:
            placed.withdraw = lambda: slab.free_slots(held)
            if not _native.take_slot(slab.memory, held, readers):
                return False
            gathered.copy(buffers, starts, slab.slot(held[0], nbytes))
            placed.placeholder = self._say(_SLOT, held[0], body, sizes)
            return True
        begun: list[bool] = []
        if dest is None:
            slots: list[int] = []
            placed.withdraw = lambda: slab.give_all_back(held, slots)
            if not slab.take_all(nbytes, held, slots, readers):
                return False
            placed.finish = lambda: slab.fill(held[0], buffers, starts, None, begun)
        else:
            placed.withdraw = lambda: any(map(slab.give_back, held))
            if not slab.take(nbytes, held, self._slab_of(dest)):
                return False
            placed.finish = lambda: slab.fill(
                held[0],
                buffers,
                starts,
                lambda start, ways: self._spill(
                    ways, gathered.rest(buffers, starts, start), nbytes - start, dest
                ),
                begun,
            )
        placed.placeholder = self._say(_RECORD, held[0], body, sizes)
        return True

    def _say(
        self, kind: int, number: int, body: Memory, sizes: Sequence[int], place: bytes = b""
    ) -> bytes:
        """Return the placeholder of a body: where it is, and the lengths of its buffers."""
        nbytes = gathered.starts_of(sizes)[-1]
        data = (
            _SAID.pack(self._family, self._rank, kind, len(sizes), number, nbytes)
            + struct.pack(f"<{len(sizes)}Q", *sizes)
            + place
            + body
        )
        return b"".join((PLACEHOLDER, _LENGTH.pack(len(data)), data, END_1))

    def _send(self, pieces: Pieces, nbytes: int, dest: int) -> tuple[int, Sent]:
        """Send a body past the slab: this decides which way it takes.

        To a rank of this host it goes by memory; to another host, or where one of the two has no
        slab, by MPI, if it has at most `inline_limit` bytes; else by a file of the store. What has
        room nowhere else goes by MPI, which asks for nothing but a copy in this process.
        """
        is_near = self._slab is not None and self._paths[dest] is not None
        by_file = is_near or nbytes > self._inline_limit
        for kind in (_MEMORY,) * is_near + (_FILE,) * by_file:
            # By `starmap`, as 3.10 runs handlers where a function has returned: none is lost.
            (sent,) = starmap(self._ways[kind].put, ((pieces, nbytes, dest),))
            if sent is not None:
                return kind, sent
        return _MESSAGE, self._messages.put(pieces, nbytes, dest)

    def _spill(self, ways: list[tuple[int, Sent]], pieces: Pieces, nbytes: int, dest: int) -> bytes:
        """Send the rest of a body, whose message is out, past the slab; return what says where."""
        ways.extend(starmap(self._send, ((pieces, nbytes, dest),)))
        ((kind, sent),) = ways
        sent.finish()
        return _REST.pack(kind, sent.number) + sent.place

    def is_crowded(self) -> bool:
        """Return whether so much waits for receivers that a sender should wait for its own."""
        if self._waiting() <= limits.CROWD:
            return False
        for way in self._ways.values():
            way.look()
        return self._waiting() > limits.CROWD

    def _waiting(self) -> int:
        return sum([way.nbytes for way in self._ways.values()])

    def reach(self, ranks: Sequence[int]) -> bool:
        """Map the slabs of ranks now; False if one cannot be mapped."""
        if self._slab is None or None in [self._paths[rank] for rank in ranks]:
            return False
        try:
            for rank in ranks:
                self._slab_of(rank)
        except OSError:
            return False
        return True

    def _slab_of(self, rank: int) -> Slab:
        slab = self._slabs.get(rank)
        if slab is None:
            slab = self._slabs[rank] = Slab(self._paths[rank])
            rooms = {} if self._lent is None else self._lent.rooms
            sender = slab.memory, self.arrived, self.receiving, rooms
            _senders[_SENDER.pack(self._family, rank)] = sender
        return slab

    # ---- receiver -------------------------------------------------------------------------------

    # A body is held until a `try` is entered that frees its place.

    def loaded_in_slot(
        self, rank: int, slot: int, nbytes: int, body: Memory, held: list[Any]
    ) -> Any:
        """Return an object whose pickle is in a slot, or whose buffer is and is copied."""
        self.receiving[0] = 0
        slab, slot = self._slab_of(rank), slot % SLOTS
        try:
            held.clear()
            memory = slab.slot(slot, nbytes)
            return decode(body, (memory,)) if body else decode(memory)
        finally:  # nothing before it, where a signal's handler may raise
            _native.release(slab.slots, slot, False)

    def fetch(
        self, rank: int, kind: int, number: int, nbytes: int, place: bytes, held: list[Any]
    ) -> Memory:
        """Return the body that another rank has placed."""
        self.receiving[0] = 0
        if self._lent is not None:
            self._lent.look()
        if kind == _RECORD:
            try:
                return self._slab_of(rank).empty(number, nbytes, held, partial(self._rest, rank))
            except BrokenBodyError:
                host = self._hosts[rank]
                raise RemoteError(
                    f"rank {rank} ({host}) was interrupted while it sent", rank=rank, host=host
                ) from None
        if kind == _SLOT:
            slab, number = self._slab_of(rank), number % SLOTS
            try:
                held.clear()
                return bytearray(slab.slot(number, nbytes))
            finally:
                _native.release(slab.slots, number, False)
        flags, at = (self._slab_of(rank).lent, number) if kind == _MEMORY else (bytearray(1), 0)
        try:
            held.clear()
            return self._ways[kind].fetch(rank, number, nbytes, place)
        finally:
            flags[at] = 0

    def _rest(self, rank: int, place: bytes, nbytes: int) -> Memory:
        """Return the last bytes of a body, for which the slab had no room."""
        kind, number = _REST.unpack_from(place)
        return self.fetch(rank, kind, number, nbytes, place[_REST.size :], [])

    def drain(self, comm: MPI.Intracomm) -> list[tuple[int, bytearray]]:
        """Receive and drop what nobody has received, once no rank sends any more.

        Return of whom there was what under the tag of packets.
        """
        packets: list[tuple[int, bytearray]] = []
        status = MPI.Status()
        while (found := comm.Improbe(status=status)) is not None:
            data = bytearray(status.Get_count())
            found.Recv(data)
            if not drop(memoryview(data)) and status.tag == wire.PACKET:
                packets.append((status.source, data))
        return packets

    def close(self) -> None:
        """End all bodies: nobody sends or receives any more."""
        del _families[self._family]
        for rank in self._slabs:
            _senders.pop(_SENDER.pack(self._family, rank), None)
        self._slabs.clear()
        for way in self._ways.values():
            way.close()
        if self._slab is not None:
            self._slab.close()
        forget()


# ---- what placeholders call ---------------------------------------------------------------------


def _take(held: list[Any]) -> Any:
    """Return the object of a placeholder; its body is held no more when its place is sure of."""
    said = held[0]
    family, rank, kind, count, number, nbytes = _SAID.unpack_from(said)
    bodies = _families.get(family)
    if bodies is None:
        raise StoreClosedError("the Exchange of this message was closed", path=None)
    end = _SAID.size + 8 * count
    if kind == _SLOT and count == 1 and (len(said) == end or said[end:] in COPIES):
        bodies.arrived.nbytes = len(said) + nbytes
        return bodies.loaded_in_slot(rank, number, nbytes, said[end:], held)
    place = said[end : end + _PLACE_SIZES[kind]]
    memory = bodies.fetch(rank, kind, number, nbytes, place, held)
    bodies.arrived.nbytes = len(said) + nbytes
    body = said[end + len(place) :]
    if count == 1:
        return decode(body, (memory,)) if body else decode(memory)
    sizes = struct.unpack_from(f"<{count}Q", said, _SAID.size)
    return _loaded(body, *gathered.cut(memoryview(memory), sizes))


def drop(pickled: memoryview) -> bool:
    """Free the place of a placeholder that nobody will load; False if the pickle is none."""
    start = len(PLACEHOLDER)
    if pickled[:start] != PLACEHOLDER:
        return False
    (nbytes,) = _LENGTH.unpack_from(pickled, start)
    start += _LENGTH.size
    _drop([bytes(pickled[start : start + nbytes])])
    return True


def _drop(held: list[Any]) -> None:
    """Free the place of a body that nobody gets any more."""
    said = held[0]
    family, rank, kind, count, number, nbytes = _SAID.unpack_from(said)
    bodies = _families.get(family)
    if bodies is not None:
        place = said[_SAID.size + 8 * count :][: _PLACE_SIZES[kind]]
        with contextlib.suppress(Exception):
            bodies.fetch(rank, kind, number, nbytes, place, held)


def _guarded(function: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Have C take arrays out of slots, and drop a body that is still held when an error comes.

    A signal that comes while MPI waits is handled as the first function starts that runs after it,
    and that is the placeholder's: before it can do anything. Without C such a body stays with its
    sender.
    """
    if _native is None:
        return function
    return update_wrapper(
        partial(_native.arrive, _senders, OUTSIDE, np.ndarray, empty, _take, _drop), function
    )


@_guarded
def _arrived(said: bytes) -> Any:
    """Return the object of a placeholder."""
    return _take([said])


#: How every placeholder starts.
PLACEHOLDER = called(_arrived)[:-3] + pickle.BINBYTES8


def _loaded(body: Memory, *buffers: Any) -> Any:
    """Return the object of a pickle, which may be the first of the buffers, and its buffers."""
    if not body:
        body, *rest = buffers
        return decode(body, pinned_by_none(rest))
    return decode(body, pinned_by_none(buffers))


def _unpacked(memory: memoryview) -> Any:
    return _loaded(b"", *gathered.unpacked(memory))
