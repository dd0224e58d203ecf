"""Places: memory of a rank out of which others of its host copy what it sends in collectives.

A message of some ten KiB is too long for a packet, and takes MPI as long to hand over as to copy it
several times. So its sender copies it into a place, and its packet says where; the receiver copies
it out, and writes the number of this use beside the place. A place is used again when all who were
to read it have written that. Who was interrupted before has not: that place is used no more, and
what would go there goes by MPI. Nothing is lost but time, and nobody waits here for anybody.

Memory is made when it is first needed, has no name in any file system, and ends with its rank. This
module needs no MPI.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fsexchange.errors import RemoteError
from fsexchange.mpi import wire
from fsexchange.mpi.message import HEAD_SIZE, length
from fsexchange.mpi.received import empty
from fsexchange.mpi.room import content
from fsexchange.mpi.slab import KEEPS_ORDER

if TYPE_CHECKING:
    from fsexchange.mpi.message import Message, Pieces

# Bytes of a place: an array of 64 KiB with what a message has before it.
_PLACE = 68 << 10

# Places for each rank, and for all: while one is read the next may be filled.
_TURNS = 4

# Seconds that a sender waits, once, for a place that is read yet. By MPI it would wait, too.
_PATIENCE = 1e-4

# Process and descriptor of the memory, its length, where in it the place is, which of the numbers
# at its start are those of the place, and the number of this use.
_WHERE = struct.Struct("<IIQQQQ")


_PLACED = bytes((wire.PLACED,))


class _Own(NamedTuple):
    """The memory of this rank's own places."""

    fd: int
    memory: memoryview
    numbers: memoryview
    start: int
    """Where the first place is."""
    free: list[list[int]]
    """For each rank, and for all in place of this rank itself, the places that nobody fills now."""
    last: list[tuple[int, Sequence[int]]]
    """Of each place its last use, and who was to read it."""
    late: list[int]
    """The use for which a place was waited for in vain."""


class Places:
    """The places of one rank, and those of others that it has read.

    Ranks are those of the whole Exchange, which all communicators over it share.
    """

    def __init__(self, rank: int, hosts: Sequence[str]) -> None:
        self._rank, self._hosts = rank, hosts
        self._uses = itertools.count(1).__next__
        self._own: dict[None, _Own] = {}
        self._read: dict[int, tuple[memoryview, memoryview]] = {}

    def put(self, message: Pieces, to: int, readers: Sequence[int]) -> bytes | None:
        """Copy a message into a place, and return its packet; None if there is none for it.

        `to` is the one reader, or for several this rank itself.
        """
        nbytes = length(message[0])
        if nbytes > _PLACE or not KEEPS_ORDER:
            return None
        own = self._own.get(None) or self._make()
        if own is None:
            return None
        numbers, free = own.numbers, own.free[to]
        try:
            (place,) = map(free.pop, (0,))  # no other thread fills it now
        except IndexError:
            return None
        try:
            used, before = own.last[place]
            first, at = place * len(self._hosts), own.start + place * _PLACE
            if any(numbers[first + reader] != used for reader in before) and (
                used == own.late[place] or not _wait(numbers, first, used, before)
            ):
                own.late[place] = used
                return None
            used = self._uses()
            own.last[place] = used, readers
            for start, piece in content(message, at):
                own.memory[start : start + len(piece)] = piece
        finally:
            free.append(place)
        where = _WHERE.pack(os.getpid(), own.fd, len(own.memory), at, first, used)
        head = bytes(message[0][:HEAD_SIZE])
        return head[:1] + _PLACED + head[2:] + where

    def _make(self) -> _Own | None:
        """Make the memory; None if the host has none, or this process no descriptor."""
        size = len(self._hosts)
        count = size * _TURNS
        start = -(-count * size * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
        nbytes = start + count * _PLACE
        try:
            (fd,) = map(os.memfd_create, ("fsexchange",))
        except OSError:
            return None
        made: _Own | None = None
        try:
            os.ftruncate(fd, nbytes)
            memory = memoryview(mmap.mmap(fd, nbytes))
            free = [[*range(at, at + _TURNS)] for at in range(0, count, _TURNS)]
            numbers = memory[:start].cast("Q")
            new = _Own(fd, memory, numbers, start, free, [(0, ())] * count, [0] * count)
            made = self._own.setdefault(None, new)  # another thread may have made one
            return made
        except OSError:
            return None
        finally:
            if made is None or made.fd != fd:
                os.close(fd)

    def fetch(self, packet: Message, rank: int) -> Message:
        """Return the message of a rank whose packet is here."""
        pid, fd, size, at, number, used = _WHERE.unpack_from(packet, HEAD_SIZE)
        memory, numbers = self._read.get(rank) or self._mapped(rank, pid, fd, size)
        message = empty(length(packet))
        message[:] = memory[at : at + len(message)]
        numbers[number + self._rank] = used
        return message

    def _mapped(self, rank: int, pid: int, fd: int, size: int) -> tuple[memoryview, memoryview]:
        try:
            (fd,) = map(os.open, (f"/proc/{pid}/fd/{fd}",), (os.O_RDWR | os.O_CLOEXEC,))
        except FileNotFoundError:
            host = self._hosts[rank]
            raise RemoteError(
                f"rank {rank} ({host}) ended before its message was received", rank=rank, host=host
            ) from None
        try:
            memory = memoryview(mmap.mmap(fd, size))
        finally:
            os.close(fd)
        self._read[rank] = found = memory, memory[: size // 8 * 8].cast("Q")
        return found

    def close(self) -> None:
        """End them: nobody sends or receives any more."""
        self._read.clear()
        while self._own:
            os.close(self._own.popitem()[1].fd)


def _wait(numbers: memoryview, first: int, used: int, readers: Sequence[int]) -> bool:
    """Wait a little for those who are to read a place, and return whether all have."""
    deadline = time.perf_counter() + _PATIENCE
    while any(numbers[first + reader] != used for reader in readers):
        if time.perf_counter() > deadline:
            return False
        os.sched_yield()
    return True
