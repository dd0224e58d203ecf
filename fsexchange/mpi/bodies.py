"""Bodies: where the buffers of a large message lie until its receiver has them.

In place of the message travels a placeholder: the pickle of a call of `_arrived`, which says where
the buffers are, and which fetches them when the receiver loads it. They lie

- for a rank of this host in the sender's slab, if that has room or the receiver waits for them;
- for a rank of another host in a message of their own number, of which the sender keeps a copy
  until it is delivered, if they have at most `inline_limit` bytes;
- else in a file of the store, which the receiver removes.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, cast

from mpi4py import MPI

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import KEY_SIZE, FileKey
from fsexchange.errors import (
    FsExchangeError,
    MissingObjectError,
    RemoteError,
    StoreClosedError,
    StoreError,
)
from fsexchange.mpi import wire
from fsexchange.mpi.codec import (
    END_1,
    OUT_OF_IT,
    SMALL,
    Memory,
    called,
    decode,
    in_pickle,
    pinned_by_none,
)
from fsexchange.mpi.message import empty, joined
from fsexchange.mpi.slab import SLOT, BrokenBodyError, Slab
from fsexchange.serialize.format import ALIGNMENT

#: A message of up to this many bytes MPI takes at once: MPICH up to 4096 bytes, header included.
EAGER = 4000

#: Bytes that may wait in copies and files for receivers before a `send` waits for its own.
CROWD = 256 << 20

# Family, rank in it, kind of place, slot, record or number, bytes of the body, how many buffers.
# The length of each buffer, for a file its key, and the pickle of the object come after it.
_SAID = struct.Struct("<8sIHHQQ")
_SLOT, _RECORD, _NUMBERED, _FILE = range(4)

# More buffers do not fit in a placeholder, which has the length of each.
_MOST_BUFFERS = 64

_LENGTH = struct.Struct("<Q")

# The latest look at so many of the messages that wait.
_LOOKED_AT = 32

# The exchanges of this process by what placeholders call them.
_families: dict[bytes, Bodies] = {}


class Placed:
    """A body that lies where its placeholder says, once `finish` has returned."""

    def __init__(
        self,
        placeholder: bytes,
        withdraw: Callable[[], object] = bool,
        finish: Callable[[], object] = bool,
    ) -> None:
        self.placeholder = placeholder
        self.withdraw = withdraw
        self.finish = finish


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
        self._connector = connector
        self._hosts = hosts
        self._slab = slab
        self._paths = paths
        self._slabs: dict[int, Slab] = {} if slab is None else {internal.rank: slab}
        self._family = family
        self._rank = internal.rank
        self._inline_limit = inline_limit
        self._numbers = itertools.count()
        last_tag = cast(int, MPI.COMM_WORLD.Get_attr(MPI.TAG_UB))
        self._most_numbers = last_tag - wire.FIRST_NUMBER
        # What waits for receivers: a request and its number, or a key and 0, and the bytes.
        self._waiting: deque[tuple[MPI.Request | FileKey, int, int]] = deque()
        self._waiting_bytes = 0
        # The memory of numbered messages, until they are known to be delivered.
        self._copies: dict[int, Memory] = {}
        #: Set while the owner waits in `recv`, so that senders let it copy behind them.
        self.receiving = memoryview(bytearray(1)) if slab is None else slab.receiving
        self.arrived = threading.local()
        self.discards = False
        _families[family] = self

    # ---- sender ---------------------------------------------------------------------------------

    def place(self, body: Memory, buffers: Sequence[Memory], dest: int) -> Placed:
        """Return the placeholder of a message to a rank, and how its body gets to its place."""
        if len(body) > SMALL - 1024 or len(buffers) > _MOST_BUFFERS:
            buffers, body = [body, *buffers], b""
            if len(buffers) > _MOST_BUFFERS:
                buffers, body = [_packed(buffers)], called(_unpacked, OUT_OF_IT)
        sizes = [len(each) for each in buffers]
        starts = _starts(sizes)
        nbytes = starts[-1]
        if len(body) + nbytes < SMALL:
            return Placed(called(_loaded, *map(in_pickle, (body, *buffers))))

        def said(kind: int, number: int, key: bytes = b"") -> bytes:
            data = (
                _SAID.pack(self._family, self._rank, kind, len(sizes), number, nbytes)
                + struct.pack(f"<{len(sizes)}Q", *sizes)
                + key
                + body
            )
            return b"".join((PLACEHOLDER, _LENGTH.pack(len(data)), data, END_1))

        slab = self._slab
        if slab is not None and self._paths[dest] is not None:
            if nbytes <= SLOT:
                slot = slab.take_slot()
                if slot >= 0:
                    memory = slab.slot(slot, nbytes)
                    if len(buffers) == 1:
                        memory[:] = buffers[0]
                    else:
                        _copy(buffers, starts, 0, memory)
                    return Placed(said(_SLOT, slot), lambda: slab.free_slot(slot))
            else:
                record = slab.take(nbytes, receiver=self._slab_of(dest))
                if record >= 0:
                    return Placed(
                        said(_RECORD, record),
                        lambda: slab.give_back(record, nbytes),
                        lambda: slab.fill(
                            record,
                            nbytes,
                            lambda start, into: _copy(buffers, starts, start, into),
                            lambda start: self._spill(_rest(buffers, starts, start), dest),
                        ),
                    )
        elif nbytes <= self._inline_limit:
            number = self._number()
            copy = joined(_rest(buffers, starts, 0))
            begun = bytearray(1)
            return Placed(
                said(_NUMBERED, number), finish=lambda: self._send(copy, dest, number, begun)
            )
        key = self._put(_rest(buffers, starts, 0))
        return Placed(said(_FILE, 0, key.pack()), lambda: self._connector.evict(key))

    def is_crowded(self) -> bool:
        """Return whether so much waits for receivers that a sender should wait for its own."""
        looks = 0
        while self._waiting_bytes > CROWD and looks < min(_LOOKED_AT, len(self._waiting)):
            looks += 1
            self._look()
        return self._waiting_bytes > CROWD

    def _look(self) -> None:
        try:
            what, number, nbytes = self._waiting.popleft()
        except IndexError:  # other threads look at all that waits
            return
        gone = what.Test() if isinstance(what, MPI.Request) else not self._connector.exists(what)
        if gone:
            self._waiting_bytes -= nbytes
            self._copies.pop(number, None)
        else:
            self._waiting.append((what, number, nbytes))

    def _slab_of(self, rank: int) -> Slab:
        slab = self._slabs.get(rank)
        if slab is None:
            slab = self._slabs[rank] = Slab(self._paths[rank])
        return slab

    def _put(self, pieces: list[Memory]) -> FileKey:
        key = self._connector.put(pieces)
        self._wait_for(key, 0, sum(map(len, pieces)))
        return key

    def _spill(self, pieces: list[Memory], dest: int) -> bytes:
        """Put the rest of a body, whose message is out, elsewhere; return what says where."""
        try:
            return bytes([_FILE]) + self._put(pieces).pack()
        except StoreError:  # a full disk
            number = self._number()
            self._send(joined(pieces), dest, number, bytearray(1))
            return bytes([_NUMBERED]) + number.to_bytes(8, "little")

    def _number(self) -> int:
        return wire.FIRST_NUMBER + next(self._numbers) % self._most_numbers

    def _send(self, copy: Memory, dest: int, number: int, begun: bytearray) -> None:
        """Send a numbered message, once, whatever a signal's handler raises on the way."""
        if begun[0]:
            return
        # Handlers run where a call ends: none before `Isend`, which may lose the request. MPI
        # reads the memory all the same.
        self._copies[number] = copy
        begun[0] = 1
        self._wait_for(self._internal.Isend(copy, dest, number), number, len(copy))

    def _wait_for(self, what: MPI.Request | FileKey, number: int, nbytes: int) -> None:
        self._waiting.append((what, number, nbytes))
        self._waiting_bytes += nbytes
        if number:
            self._look()

    # ---- receiver -------------------------------------------------------------------------------

    def fetch(self, rank: int, kind: int, number: int, nbytes: int, key: bytes) -> Any:
        """Return the body that another rank has placed."""
        self.receiving[0] = 0
        if kind == _SLOT:
            slab = self._slab_of(rank)
            copy = bytearray(slab.slot(number, nbytes))
            slab.free_slot(number)
            return copy
        if kind == _FILE:
            return self._taken(FileKey.unpack(key), rank)
        into = empty(nbytes)
        if kind == _NUMBERED:
            self._internal.Recv(into, rank, number)
            return into
        try:
            rest = self._slab_of(rank).empty(number, into)
        except BrokenBodyError:
            host = self._hosts[rank]
            raise RemoteError(
                f"rank {rank} ({host}) was interrupted while it sent", rank=rank, host=host
            ) from None
        if rest is not None:
            place, start = rest
            if place[0] == _FILE:
                into[start:] = self._taken(FileKey.unpack(place[1 : 1 + KEY_SIZE]), rank)
            else:
                self._internal.Recv(into[start:], rank, int.from_bytes(place[1:9], "little"))
        return into

    def _taken(self, key: FileKey, rank: int) -> memoryview:
        try:
            # Not by `get`, which might keep a copy of it for other ranks.
            data = self._connector.get_part(key, 0, key.nbytes)
        finally:
            with contextlib.suppress(FsExchangeError):
                self._connector.evict(key)
        if data is None:
            path = self._connector.path(key)
            raise MissingObjectError(f"{path} was removed before it was received", path=path)
        return memoryview(data)

    def drain(self, comm: MPI.Intracomm) -> None:
        """Receive and drop what nobody has received, once no rank sends any more."""
        status = MPI.Status()
        self.discards = True
        while (found := comm.Improbe(status=status)) is not None:
            data = bytearray(status.Get_count())
            found.Recv(data)
            if data.startswith(PLACEHOLDER):
                with contextlib.suppress(Exception):
                    decode(data)
        self.discards = False

    def close(self) -> None:
        """End all bodies: nobody sends or receives any more."""
        self.drain(self._internal)
        del _families[self._family]
        for what, _, _ in self._waiting:
            if isinstance(what, FileKey):
                with contextlib.suppress(FsExchangeError):
                    self._connector.evict(what)
        if self._slab is not None:
            self._slab.close()


# ---- what placeholders call ---------------------------------------------------------------------


def _arrived(said: bytes) -> Any:
    """Return the object of a placeholder."""
    family, rank, kind, count, number, nbytes = _SAID.unpack_from(said)
    bodies = _families.get(family)
    if bodies is None:
        raise StoreClosedError("the Exchange of this message was closed", path=None)
    end = _SAID.size + 8 * count
    key = said[end : end + KEY_SIZE] if kind == _FILE else b""
    memory = bodies.fetch(rank, kind, number, nbytes, key)
    bodies.arrived.nbytes = len(said) + nbytes
    if bodies.discards:
        return None
    body = said[end + len(key) :]
    if count == 1:
        return decode(body, (memory,)) if body else decode(memory)
    sizes = struct.unpack_from(f"<{count}Q", said, _SAID.size)
    return _loaded(body, *_cut(memoryview(memory), sizes))


#: How every placeholder starts.
PLACEHOLDER = called(_arrived)[:-3] + pickle.BINBYTES8


def _loaded(body: Memory, *buffers: Any) -> Any:
    """Return the object of a pickle, which may be the first of the buffers, and its buffers."""
    if not body:
        body, *rest = buffers
        return decode(body, pinned_by_none(rest))
    return decode(body, pinned_by_none(buffers))


def _unpacked(memory: memoryview) -> Any:
    (count,) = struct.unpack_from("<Q", memory)
    sizes = struct.unpack_from(f"<{count}Q", memory, 8)
    start = 8 + 8 * count
    return _loaded(b"", *_cut(memory[start + -start % ALIGNMENT :], sizes))


# ---- one memory for several buffers, each aligned -----------------------------------------------


def _packed(buffers: Sequence[Memory]) -> Memory:
    sizes = [len(each) for each in buffers]
    head = struct.pack(f"<{1 + len(sizes)}Q", len(sizes), *sizes)
    return joined([head, bytes(-len(head) % ALIGNMENT), *_rest(buffers, _starts(sizes), 0)])


def _cut(memory: memoryview, sizes: Sequence[int]) -> list[memoryview]:
    return [
        memory[start : start + size] for start, size in zip(_starts(sizes), sizes, strict=False)
    ]


def _starts(sizes: Sequence[int]) -> list[int]:
    """Return where in one memory the buffers start, and its length."""
    if len(sizes) == 1:
        return [0, sizes[0]]
    return [0, *accumulate([size + -size % ALIGNMENT for size in sizes])]


def _rest(buffers: Sequence[Memory], starts: Sequence[int], at: int) -> list[Memory]:
    """Return the pieces of a body from a place in it on."""
    pieces: list[Memory] = []
    for buffer, start, end in zip(buffers, starts, starts[1:], strict=False):
        if end > at:
            pieces.append(memoryview(buffer)[max(0, at - start) :])
            pieces.append(bytes(end - max(at, start + len(buffer))))
    return pieces


def _copy(buffers: Sequence[Memory], starts: Sequence[int], at: int, into: memoryview) -> None:
    """Copy the part of a body that starts at a place in it."""
    if len(buffers) == 1:
        data = memoryview(buffers[0])[at : at + len(into)]
        into[: len(data)] = data
        return
    for buffer, start in zip(buffers, starts, strict=False):
        if start >= at + len(into):
            break
        data = memoryview(buffer)[max(0, at - start) : at + len(into) - start]
        if len(data):
            begin = max(0, start - at)
            into[begin : begin + len(data)] = data
