"""Lending: memory of the host that one rank fills and another maps.

Its sender keeps it until its receiver has mapped it. The receiver says so by clearing a byte in the
sender's slab, at which the sender looks when it moves its next large object. A rank that is killed
leaves nothing. This module needs no MPI.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fsexchange.errors import RemoteError
from fsexchange.mpi.room import PLACE_SIZE, HostRoom, content, enter
from fsexchange.mpi.way import Sent
from fsexchange.serialize.reasons import is_of_handler

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector
    from fsexchange.mpi.codec import Memory
    from fsexchange.mpi.message import Pieces


class LentMemory:
    """The memory that one rank lends to others, each piece a room for two.

    `lent` are the bytes of its slab that say which pieces wait. Not for a forked child.
    """

    place_size = PLACE_SIZE

    def __init__(
        self,
        connector: FileConnector,
        lent: memoryview,
        hosts: Sequence[str],
    ) -> None:
        self._connector = connector
        self._hosts = hosts
        self._lent = lent
        self._free = list(range(len(lent)))
        #: What waits for receivers, as far as is known.
        self.rooms: dict[int, HostRoom] = {}
        _lenders.add(self)

    @property
    def nbytes(self) -> int:
        """The bytes that wait for receivers, as far as is known."""
        return sum([room.nbytes for room in tuple(self.rooms.values())])

    def put(self, pieces: Pieces, nbytes: int, dest: int) -> Sent | None:
        """Fill memory; None if the host has none, or too many pieces wait."""
        self.look()
        held: list[int] = []
        try:
            held.extend(map(self._free.pop, (-1,)))  # with no moment between
            (number,) = held
            self._lent[number] = 1  # before another thread sees the room, and takes it back
            self.rooms.update(zip(held, map(HostRoom.make, (nbytes,)), strict=True))  # as above
            room = self.rooms[number]
            most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            if room.fd > most * 7 // 8 > 0:  # the last ones are for the program itself
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            room.fill(content(pieces, 0), alone=True)
            return Sent(number, room.place, lambda: self._end(number, room))
        except BaseException as error:
            for number in held:
                made = self.rooms.get(number)
                if made is None:
                    self._free.append(number)
                else:
                    self._lent[number] = 0  # so that else the next one ends it
                    self._end(number, made)
            if not isinstance(error, (OSError, MemoryError, IndexError)) or is_of_handler(error):
                raise
            return None  # none is free

    def fetch(self, rank: int, number: int, nbytes: int, place: Memory) -> Memory:
        """Return memory that another rank has filled; the caller clears its byte."""
        try:
            with contextlib.closing(enter(place, nbytes, self._connector)) as room:
                return room.take(0, nbytes)
        except FileNotFoundError:
            host = self._hosts[rank]
            raise RemoteError(
                f"rank {rank} ({host}) ended before its message was received", rank=rank, host=host
            ) from None

    def look(self) -> None:
        """Let go of what receivers have mapped; they keep theirs."""
        for number in tuple(self.rooms):
            room = self.rooms.get(number)
            if room is not None and not self._lent[number]:
                self._end(number, room)

    def _end(self, number: int, room: HostRoom) -> None:
        room.close()
        # Else another thread, or a signal's handler, has done it, and the number may be used again.
        if number in self.rooms and self.rooms[number] is room:
            del self.rooms[number]
            self._free.append(number)

    def close(self) -> None:
        """End it, whatever still waits."""
        while self.rooms:
            self.rooms.popitem()[1].close()


_lenders: weakref.WeakSet[LentMemory] = weakref.WeakSet()


def _in_forked_child() -> None:
    for each in tuple(_lenders):
        each.close()


# Else what its receiver has long dropped stays in memory for as long as a child lives.
os.register_at_fork(after_in_child=_in_forked_child)
