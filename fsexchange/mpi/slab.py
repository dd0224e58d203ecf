"""Slab: memory of one rank, shared with the ranks of its host, through which bodies pass.

It is reused, and so soon in memory: a body costs a copy in and a copy out, at the same time where
the receiver is there already, and no page faults. Copies go past the cores' caches where that is
faster, as the two ranks may not share these. It has no name in any file system and ends with its
rank. Bodies pass through it in C alone; where there was no compiler they go by MPI. This module
needs no MPI.

The sender owns the slab. For each message it takes a record, and for each piece of the body a slot,
one after the other, or all at first; it fills the slot, writes its number into the record, and then
counts up the pieces that are ready.
A receiver copies a piece, and gives up its share of the slot; at the end, of the record. A byte of
each says how many readers have yet to do so. What was written before a count is seen by who has
read that: C's atomic operations see to it, and `order` for what Python writes.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from fsexchange.filesystem.mapping import shared
from fsexchange.mpi.received import empty

if TYPE_CHECKING:
    from fsexchange.mpi.codec import Memory
    from fsexchange.mpi.way import Sent

#: Bytes of a slot, slots of a slab, and messages that may be in it at a time.
SLOT, SLOTS, RECORDS = 1 << 16, 128, 64

#: Pieces of other memory that a rank may lend at a time: each takes a descriptor.
LOANS = 128

#: Bytes that say where the rest of a body is.
PLACE_SIZE = 128

# A record: how many pieces are ready, modulo 256; whether the rest of the body is elsewhere, and
# where; and the slot of each piece, modulo 256. C adds SLOTS to the number of a slot that it has
# filled past its caches.
_OVER, _PLACE, _PIECES = 1, 64, 256
_RECORD = 512

_NOT_BEGUN = bytes(2)

# In the record, in place of 0: the rest is elsewhere; the sender could not finish.
_ELSEWHERE, _BROKEN = 1, 2

#: Why the owner of a slab is not about to enter `recv`: it receives by requests, or it has a large
#: body to send.
REQUESTS, SENDS = 1, 2

# Whether the owner is in `recv`; why it is not about to enter it; bytes of slots, of records and of
# loans; how long copies take, for C; records; slots.
_RECEIVING, _BUSY, _SLOT_BYTES, _RECORD_BYTES = 0, 2, 64, 64 + SLOTS
_LOANS_AT = _RECORD_BYTES + RECORDS
_PACES_AT = _LOANS_AT + LOANS
_RECORDS_AT = _PACES_AT + 128
_SLOTS_AT = -(-(_RECORDS_AT + RECORDS * _RECORD) // SLOT) * SLOT
_SIZE = _SLOTS_AT + SLOTS * SLOT

# Seconds that a sender waits for a slot while its receiver copies, in all and for each byte that is
# left: the kernel clears a huge page for the receiver in 0.2 to 0.5 ms, or takes its core. For 64
# MiB that is 7 ms; to write them to fresh memory instead takes 30.
_PATIENCE, _PATIENCE_PER_BYTE = 5e-4, 1e-10

# Seconds that it waits, for each byte of a body for which the slab has no room, for a receiver that
# may be about to come: 8 ms for 64 MiB, a quarter of what it takes to write them to fresh memory. A
# receiver that comes later must map that memory, and so is late for the next body, too. After each
# time in vain it waits half as long, and after every seventh the whole time again: else a receiver
# that was late some times would be late for ever.
_HOPE_PER_BYTE, _WHOLE_AGAIN = 1.2e-10, 7

# Seconds for which a receiver that drops a body waits for a sender that does nothing.
_ENDS_WITHIN = 1.0

try:
    from fsexchange.mpi import _native as _native
except ImportError:
    _native = None  # type: ignore[assignment]

#: Whether bodies of this process can pass through slabs.
IN_USE = _native is not None


def this_host() -> tuple[object, ...]:
    """Return what the processes have in common that can map each other's memory.

    Two hosts may be namespaces of one machine; then they differ in their names.
    """
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot_id = file.read()
    return boot_id, os.readlink("/proc/self/ns/pid"), os.geteuid(), socket.gethostname()


class BrokenBodyError(Exception):
    """The sender was interrupted while it copied."""


class Slab:
    """The memory of one rank, as its owner or as another rank of the host has it."""

    def __init__(self, path: str | None = None) -> None:
        if path is None:
            self._fd = os.memfd_create("fsexchange")
            os.ftruncate(self._fd, _SIZE)
            self._map = mmap.mmap(self._fd, _SIZE)
            memory = memoryview(self._map)
        else:
            (fd,) = map(os.open, (path,), (os.O_RDWR | os.O_CLOEXEC,))
            try:
                memory = shared(fd, _SIZE)  # an `mmap` would keep a descriptor
            finally:
                os.close(fd)
        #: Set while the owner waits in `recv`.
        self.receiving = memory[_RECEIVING : _RECEIVING + 1]
        #: Why senders should not wait for the owner to enter `recv`: REQUESTS, SENDS, or 0.
        #: A hint: a send by another thread or a signal's handler may end SENDS early.
        self.busy = memory[_BUSY : _BUSY + 1]
        # How often this process has waited for the owner in vain since it last met it.
        self._missed = 0
        #: By how many readers each slot and record is taken, and which pieces of other memory are
        #: lent: a byte each. A receiver gives up its share after all that it does with them.
        self.slots = memory[_SLOT_BYTES : _SLOT_BYTES + SLOTS]
        self.records = memory[_RECORD_BYTES : _RECORD_BYTES + RECORDS]
        self.lent = memory[_LOANS_AT : _LOANS_AT + LOANS]
        #: All of it.
        self.memory = memory

    @property
    def path(self) -> str:
        """Where other processes of the host find it."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        """End it for its owner."""
        os.close(self._fd)

    def slot(self, slot: int, nbytes: int) -> memoryview:
        """Return the memory of a slot."""
        begin = _SLOTS_AT + slot * SLOT
        return self.memory[begin : begin + nbytes]

    def free_slots(self, slots: Iterable[int]) -> None:
        """Free slots that nobody reads."""
        any(map(self.slots.__setitem__, slots, repeat(0)))  # in C: no signal's handler runs between

    # ---- sender ---------------------------------------------------------------------------------

    def take(self, nbytes: int, held: list[int], receiver: Slab) -> bool:
        """Take a record for a body that has room, or whose receiver waits for it; else False.

        Its number is appended to those that are held.
        """
        if nbytes > self._free * SLOT and not self._meets(receiver, nbytes):
            return False
        return self._take_record(held, 1)

    def take_all(self, nbytes: int, held: list[int], slots: list[int], readers: int) -> bool:
        """Take a record and all slots for a body and its readers; False if there are too few.

        Their numbers are appended to those that are held.
        """
        count = -(-nbytes // SLOT)
        if count > self._free or not self._take_record(held, readers):
            return False
        for _ in range(count):
            if not _native.take_slot(self.memory, slots, readers):  # another thread has them
                return False
        at = _RECORDS_AT + held[-1] * _RECORD + _PIECES
        self.memory[at : at + count] = bytes(slots)
        return True

    @property
    def _free(self) -> int:
        return self._map[_SLOT_BYTES : _SLOT_BYTES + SLOTS].count(0)

    def _take_record(self, held: list[int], readers: int) -> bool:
        memory = self.memory
        while True:
            found = self._map.find(b"\0", _RECORD_BYTES, _RECORD_BYTES + RECORDS)
            if found < 0:
                return False
            record = found - _RECORD_BYTES
            at = _RECORDS_AT + record * _RECORD
            # Other threads and signals' handlers, which may take it, run only where a call ends:
            # from here on not before the record is held.
            if not memory[found]:
                memory[found] = readers
                memory[at : at + 2] = _NOT_BEGUN
                held.append(record)
                return True

    def _meets(self, receiver: Slab, nbytes: int) -> bool:
        """Wait a little, for a body of so many bytes, and return whether the other is in `recv`.

        The caller ends SENDS when the body is placed.
        """
        self.busy[0] |= SENDS
        hope = nbytes * _HOPE_PER_BYTE / 2 ** (receiver._missed % _WHOLE_AGAIN)
        deadline = time.perf_counter() + hope
        while not receiver.receiving[0]:
            if receiver.busy[0]:
                return False
            if time.perf_counter() > deadline:
                receiver._missed += 1
                return False
            os.sched_yield()
        receiver._missed = 0
        return True

    def give_back(self, record: int) -> None:
        """Free a record of which nobody was told, and the slots that were filled."""
        at = _RECORDS_AT + record * _RECORD
        slots = self.memory[at + _PIECES : at + _PIECES + self.memory[at]]
        self.free_slots([slot % SLOTS for slot in slots])
        self.records[record] = 0

    def give_all_back(self, held: list[int], slots: list[int]) -> None:
        """Free the records and slots of `take_all`, of which nobody was told."""
        for record in held:
            at = _RECORDS_AT + record * _RECORD
            if self.memory[at + _OVER] == _BROKEN:  # those that are not ready are free
                del slots[self.memory[at] :]
            self.records[record] = 0
        self.free_slots(slots)

    def fill(
        self,
        record: int,
        buffers: Sequence[Memory],
        starts: list[int],
        spill: Callable[[int, list[tuple[int, Sent]]], bytes] | None,
        begun: list[bool],
    ) -> None:
        """Copy a body into slots, once: buffers, where each starts in it, and its length.

        What the receiver leaves no slots for, `spill` sends elsewhere, which it appends to a list,
        and returns where. It is withdrawn if the receiver is not told. Without `spill` the record
        has all slots. `begun` is empty before the first call; then the record may be another's.
        """
        if begun:
            return
        memory = self.memory
        at = _RECORDS_AT + record * _RECORD
        sent: list[tuple[int, Sent]] = []
        told = [False]
        elsewhere = None if spill is None else lambda start: spill(start, sent)
        try:
            begun.append(True)
            self._fill(at, [*buffers], starts, elsewhere, told)
        except BaseException:
            if not told[0]:
                count = 0 if spill is not None else -(-starts[-1] // SLOT)
                unread = bytes(memory[at + _PIECES + memory[at] : at + _PIECES + count])
                _native.order()
                memory[at + _OVER] = _BROKEN  # from here on the record may be another's
                self.free_slots(unread)
                for _, each in sent:
                    each.withdraw()
            raise

    def _fill(
        self,
        at: int,
        buffers: list[Memory],
        starts: list[int],
        spill: Callable[[int], bytes] | None,
        told: list[bool],
    ) -> None:
        # A function of its own, as CPython 3.12 and 3.13 have the end of a loop outside the `try`
        # around it: there a signal's handler may raise, and nothing catches that.
        memory = self.memory
        start, nbytes = 0, starts[-1]
        late = 0.0
        while start < nbytes:
            before = start
            start = _native.fill(memory, at, spill is None, buffers, starts, start)
            if start > before or spill is None:
                late = 0.0
            elif not late:
                late = time.perf_counter() + _PATIENCE + (nbytes - start) * _PATIENCE_PER_BYTE
            elif time.perf_counter() < late:
                os.sched_yield()
            else:
                place = spill(start)
                memory[at + _PLACE : at + _PLACE + PLACE_SIZE] = place.ljust(PLACE_SIZE, b"\0")
                _native.order()
                memory[at + _OVER] = _ELSEWHERE
                told[0] = True
                return

    # ---- receiver -------------------------------------------------------------------------------

    def empty(
        self,
        record: int,
        nbytes: int,
        held: list[Any],
        rest: Callable[[bytes, int], Memory],
    ) -> memoryview:
        """Copy a body out, as it becomes ready, and free its slots and record, whatever is raised.

        Its placeholder is held no more once that is sure; behind it is what C has copied of an
        array. What is elsewhere `rest` returns, of where it is and how many bytes.
        """
        at = _RECORDS_AT + record * _RECORD
        into: memoryview | None = None
        done, goes_on = memoryview(bytearray(8)), False
        if len(held) > 1:
            array, copied = held[1]
            into, done = memoryview(array).cast("B"), memoryview(copied)
        try:
            held.clear()
            if into is None:
                into = empty(nbytes)
            elsewhere = self._empty(at, nbytes, done, into)
        except BrokenBodyError:
            raise
        except BaseException:  # no memory, or a signal's handler: the sender goes on
            goes_on = True
            with contextlib.suppress(Exception):
                elsewhere = self._empty(at, nbytes, done, None)
                goes_on = False
                if elsewhere is not None:
                    rest(*elsewhere)
            raise
        finally:
            _native.release(self.records, record, goes_on)
        if elsewhere is not None:
            place, left = elsewhere
            into[nbytes - left :] = rest(place, left)
        return into

    def _empty(
        self, at: int, nbytes: int, done: memoryview, into: memoryview | None
    ) -> tuple[bytes, int] | None:
        """Copy a body out from where `done` says it, in whole or up to what is elsewhere.

        Return where that is, and how many bytes. Without memory to copy to, what comes is dropped;
        `TimeoutError` if the sender does nothing for long.
        """
        memory, end = self.memory, done.cast("Q")
        patience = _ENDS_WITHIN if into is None else math.inf
        late = time.monotonic() + patience
        while (start := end[0]) < nbytes:
            _native.empty(memory, at, into, nbytes, done)
            if end[0] > start:
                late = time.monotonic() + patience
                continue
            over = memory[at + _OVER]
            if over:
                _native.order()
            if over and memory[at] == start // SLOT % 256:  # `over` is written after the last
                if over == _BROKEN:
                    if into is None:
                        return None
                    raise BrokenBodyError
                return bytes(memory[at + _PLACE : at + _PLACE + PLACE_SIZE]), nbytes - start
            if time.monotonic() > late:
                raise TimeoutError
            os.sched_yield()
        return None
