"""Places: memory of a rank out of which others of its host copy what it sends in collectives.

A message of some ten KiB is too long for a packet, and takes MPI as long to hand over as to copy it
several times. So its sender copies it into a place, and its packet says where; the receiver copies
it out, and writes the number of this use beside the place. A place is used again when all who were
to read it have written that. Who was interrupted before has not: that place is used no more, and
what would go there goes by MPI. Nothing is lost but time: a sender waits for a place that is not
read yet 0.1 ms, once.

All ranks map the memory of all when their communicator is made, or none does. It has no name in any
file system, holds no descriptor, and ends with its last mapping. This module needs no MPI.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fsexchange.filesystem.mapping import shared
from fsexchange.mpi import wire
from fsexchange.mpi.message import HEAD_SIZE, length
from fsexchange.mpi.received import empty
from fsexchange.mpi.room import content

if TYPE_CHECKING:
    from fsexchange.mpi.message import Message, Pieces

# Bytes of a place: an array of 64 KiB with what a message has before it.
_PLACE = 68 << 10

# Places for each rank, and for all: while one is read the next may be filled.
_TURNS = 4

# Seconds that a sender waits, once, for a place that is read yet. By MPI it would wait, too.
_PATIENCE = 1e-4

# The place, and the number of this use.
_WHERE = struct.Struct("<QQ")

_PLACED = bytes((wire.PLACED,))


class Places:
    """The places of all ranks of a communicator, as one of them has them."""

    def __init__(self, rank: int, size: int) -> None:
        """Make the memory of this rank; `OSError` if there is none."""
        self._rank, self._size = rank, size
        count = size * _TURNS
        self._start = -(-count * size * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
        self._nbytes = self._start + count * _PLACE
        self._uses = itertools.count(1).__next__
        # For each rank, and for all in place of this rank itself, the places that nobody fills now.
        self._free = [[*range(at, at + _TURNS)] for at in range(0, count, _TURNS)]
        # Of each place its last use, and who was to read it; the use that was waited for in vain.
        self._last: list[tuple[int, Sequence[int]]] = [(0, ())] * count
        self._late = [0] * count
        # Of each rank its memory, and the numbers: for each place and reader the use that was read.
        self._memory: list[tuple[memoryview, memoryview]] = []
        (self._fd,) = map(os.memfd_create, ("fsexchange",))
        try:
            os.ftruncate(self._fd, self._nbytes)
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> str:
        """Where other processes of the host find it, until it is closed."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def enter(self, paths: Sequence[str]) -> None:
        """Map the memory of all ranks; `OSError` if the kernel does not."""
        for path in paths:
            (fd,) = map(os.open, (path,), (os.O_RDWR | os.O_CLOEXEC,))
            try:
                memory = shared(fd, self._nbytes)
            finally:
                os.close(fd)
            self._memory.append((memory, memory[: self._start].cast("Q")))

    def close(self) -> None:
        """Close the file, once all have mapped it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def put(self, message: Pieces, to: int, readers: Sequence[int]) -> bytes | None:
        """Copy a message into a place, and return its packet; None if there is none for it.

        `to` is the one reader, or for several this rank itself.
        """
        nbytes = length(message[0])
        if nbytes > _PLACE:
            return None
        (memory, numbers), free = self._memory[self._rank], self._free[to]
        try:
            (place,) = map(free.pop, (0,))  # no other thread fills it now
        except IndexError:
            return None
        try:
            used, before = self._last[place]
            first, at = place * self._size, self._start + place * _PLACE
            if any(numbers[first + reader] != used for reader in before) and (
                used == self._late[place] or not _wait(numbers, first, used, before)
            ):
                self._late[place] = used
                return None
            used = self._uses()
            self._last[place] = used, readers
            for start, piece in content(message, at):
                memory[start : start + len(piece)] = piece
        finally:
            free.append(place)
        head = bytes(message[0][:HEAD_SIZE])
        return head[:1] + _PLACED + head[2:] + _WHERE.pack(place, used)

    def fetch(self, packet: Message, rank: int) -> Message:
        """Return the message of a rank whose packet is here."""
        place, used = _WHERE.unpack_from(packet, HEAD_SIZE)
        memory, numbers = self._memory[rank]
        message, at = empty(length(packet)), self._start + place * _PLACE
        message[:] = memory[at : at + len(message)]
        numbers[place * self._size + self._rank] = used
        return message


def _wait(numbers: memoryview, first: int, used: int, readers: Sequence[int]) -> bool:
    """Wait a little for those who are to read a place, and return whether all have."""
    deadline = time.perf_counter() + _PATIENCE
    while any(numbers[first + reader] != used for reader in readers):
        if time.perf_counter() > deadline:
            return False
        os.sched_yield()
    return True
