"""Ways: how a body travels past the slab to another host, or where a host has no memory.

Messages and files have the same methods as `LentMemory`, by which bodies travel on one host.
"""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections import deque
from itertools import starmap
from typing import Generic, TypeVar, cast

from mpi4py import MPI

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import KEY_SIZE, FileKey
from fsexchange.errors import FsExchangeError, MissingObjectError
from fsexchange.mpi import wire
from fsexchange.mpi.codec import Memory
from fsexchange.mpi.message import Pieces, joined
from fsexchange.mpi.received import empty
from fsexchange.mpi.room import StoreRoom
from fsexchange.mpi.way import Sent
from fsexchange.serialize.reasons import is_of_handler

_T = TypeVar("_T")

# Bytes of a message: not every MPI takes one of more than 2 GiB.
_MOST = 1 << 30

# A rank that sends looks whether so many messages or files are gone: fewer wait with each.
_LOOKED_AT = 2


class _Queue(ABC, Generic[_T]):
    """What waits for receivers. Only by a system call, or one of MPI, is it known for how long.

    Other threads and signals' handlers run only where a call ends, or a jump. So it is kept, and
    let go of, in steps that are none.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[_T, int]] = deque()
        self.nbytes = 0

    def _keep(self, what: _T, nbytes: int) -> None:
        entry = what, nbytes
        self.nbytes += nbytes
        self._waiting.append(entry)

    def look(self, most: int | None = None) -> None:
        """Let go of what receivers have, if it is among the first."""
        for _ in range(len(self._waiting) if most is None else min(most, len(self._waiting))):
            taken: list[tuple[_T, int]] = []
            try:  # one thread at a time may ask MPI about a request
                taken.extend(starmap(self._waiting.popleft, ((),)))
                what, nbytes = taken[0]
                if self._is_gone(what):
                    self.nbytes -= nbytes
                    taken.clear()
            except IndexError:  # other threads look at all that waits
                return
            finally:
                self._waiting.extend(taken)

    @abstractmethod
    def _is_gone(self, what: _T) -> bool:
        """Return whether its receiver has it."""


class NumberedMessages(_Queue["tuple[MPI.Request, int]"]):
    """Messages of MPI, each of a number. Their sender keeps copies until they are delivered."""

    place_size = 0

    def __init__(self, internal: MPI.Intracomm) -> None:
        super().__init__()
        self._internal = internal
        self._numbers = itertools.count()
        last_tag = cast(int, MPI.COMM_WORLD.Get_attr(MPI.TAG_UB))
        self._most_numbers = last_tag - wire.FIRST_NUMBER
        # By number, the memory of messages that are not known to be delivered.
        self._copies: dict[int, memoryview] = {}

    def put(self, pieces: Pieces, nbytes: int, dest: int) -> Sent:
        """Copy a body; there is always room, or `MemoryError`."""
        number = wire.FIRST_NUMBER + next(self._numbers) % self._most_numbers
        copy = memoryview(joined(pieces))
        sent = [0]
        return Sent(number, finish=lambda: self._send(copy, dest, number, sent))

    def _send(self, copy: memoryview, dest: int, number: int, sent: list[int]) -> None:
        """Send what is not sent yet, whatever a signal's handler raises on the way."""
        while (start := sent[0]) < len(copy):
            end = start + _MOST
            piece = copy[start:end]
            # Handlers run where a call ends: none before `Isend`, which may lose the request. MPI
            # reads the memory all the same.
            self._copies[number] = copy
            sent[0] = end
            request = self._internal.Isend(piece, dest, number)
            self._keep((request, number if end >= len(copy) else 0), len(piece))
        self.look(_LOOKED_AT)

    def _is_gone(self, what: tuple[MPI.Request, int]) -> bool:
        request, number = what
        gone = request.Test()
        if gone:
            self._copies.pop(number, None)
        return gone

    def fetch(self, rank: int, number: int, nbytes: int, place: Memory) -> Memory:
        """Receive a body."""
        into = empty(nbytes)
        for start in range(0, nbytes, _MOST):
            self._internal.Recv(into[start : start + _MOST], rank, number)
        return into

    def close(self) -> None:
        """Do nothing: nobody receives any more, and MPI drops what is left."""


class StoredFiles(_Queue[FileKey]):
    """Files of the store, each of which its receiver removes."""

    place_size = KEY_SIZE

    def __init__(self, connector: FileConnector) -> None:
        super().__init__()
        self._connector = connector

    def put(self, pieces: Pieces, nbytes: int, dest: int) -> Sent | None:
        """Write a file; None if there is no space for it."""
        try:
            StoreRoom.check(self._connector, nbytes)
            key = self._connector.put(pieces)
        except OSError as error:
            if is_of_handler(error):
                raise
            return None
        self.look(_LOOKED_AT)
        self._keep(key, nbytes)
        return Sent(0, key.pack(), lambda: self._connector.evict(key))

    def _is_gone(self, what: FileKey) -> bool:
        return not self._connector.exists(what)

    def fetch(self, rank: int, number: int, nbytes: int, place: Memory) -> Memory:
        """Return the content of a file, and remove it."""
        key = FileKey.unpack(bytes(place[:KEY_SIZE]))
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

    def close(self) -> None:
        """Remove what nobody has received."""
        for key, _ in self._waiting:
            with contextlib.suppress(FsExchangeError):
                self._connector.evict(key)
