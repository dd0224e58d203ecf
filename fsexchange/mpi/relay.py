"""Relay: the first ranks of the hosts pass on what was written on each, from memory to memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from fsexchange.mpi.doze import doze

if TYPE_CHECKING:
    from fsexchange.mpi.hosts import Hosts

# Bytes of what the first ranks of the hosts pass on, longer if it is contiguous, and how many of
# these at a time.
_PIECE, _LONG_PIECE = 1 << 23, 1 << 26
_AT_A_TIME = 8

#: The parts of a room's memory that are written on one host each, and a rank of that.
Parts: TypeAlias = "list[tuple[int, npt.NDArray[Any]]]"


class Piece(NamedTuple):
    """What the first rank of a host passes on at a time."""

    number: int
    """The host."""
    piece: npt.NDArray[Any]
    data: npt.NDArray[np.uint8]
    """The memory of it, or of a copy where that is not contiguous."""

    def pack(self) -> None:
        """Make the copy, if one is needed."""
        if not self.piece.flags.c_contiguous:
            self._copy()[...] = self.piece

    def unpack(self) -> None:
        """Put a copy that was received into its place."""
        if not self.piece.flags.c_contiguous:
            self.piece[...] = self._copy()

    def _copy(self) -> npt.NDArray[Any]:
        return self.data.view(self.piece.dtype).reshape(self.piece.shape)


class Relay:
    """The first ranks of the hosts, on a communicator of their own."""

    def __init__(self, internal: MPI.Intracomm, hosts: Hosts) -> None:
        """Make the communicator; collective."""
        self._numbers = hosts.numbers
        self._mine = hosts.numbers[internal.rank]
        color = 0 if hosts.first == internal.rank else MPI.UNDEFINED
        self._firsts = MPI.Intracomm(internal.Split(color, internal.rank))

    def free(self) -> None:
        """Free the communicator; collective."""
        if self._firsts:
            self._firsts.Free()

    def groups(self, parts: Parts) -> list[list[Piece]]:
        """Return what the first ranks of the hosts pass on, in groups that move at a time.

        All hosts send at the same time. `MemoryError` if there is none for copies of what is not
        contiguous.
        """
        queues: dict[int, list[npt.NDArray[Any]]] = {}
        for writer, part in parts:
            queues.setdefault(self._numbers[writer], []).extend(_pieces(part))
        turns = [
            (number, piece)
            for pieces in zip_longest(*queues.values())
            for number, piece in zip(queues, pieces, strict=True)
            if piece is not None
        ]
        most = max([each.nbytes for _, each in turns if not each.flags.c_contiguous], default=0)
        copies = [np.empty(most, np.uint8) for _ in range(min(_AT_A_TIME, len(turns)))]
        made = []
        for n, (number, piece) in enumerate(turns):
            if piece.flags.c_contiguous:
                data = piece.reshape(-1).view(np.uint8)
            else:
                data = copies[n % _AT_A_TIME][: piece.nbytes]
            made.append(Piece(number, piece, data))
        return [made[n : n + _AT_A_TIME] for n in range(0, len(made), _AT_A_TIME)]

    def move(self, groups: list[list[Piece]]) -> None:
        """Have the first ranks of the hosts pass on what was written on each."""
        if not self._firsts:
            return
        for group in groups:
            for each in group:
                if each.number == self._mine:
                    each.pack()
            moving = [self._firsts.Ibcast(each.data, each.number) for each in group]
            doze(moving, awake=True)
            for each in group:
                if each.number != self._mine:
                    each.unpack()


def _pieces(part: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield a part in pieces along its first axis."""
    if part.nbytes:
        most = _LONG_PIECE if part.flags.c_contiguous else _PIECE
        rows = max(1, most * len(part) // part.nbytes)
        for n in range(0, len(part), rows):
            yield part[n : n + rows]
