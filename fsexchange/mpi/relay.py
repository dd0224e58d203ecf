"""Relay: the first ranks of the hosts pass on what was written on each, from room to room."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, cycle, repeat, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from fsexchange.mpi.doze import doze
from fsexchange.mpi.room import OwnRoom, span

if TYPE_CHECKING:
    from fsexchange.mpi.hosts import Hosts
    from fsexchange.mpi.room import MemoryRoom

# Bytes of what the first ranks of the hosts pass on, and how many of these at a time.
_PIECE = 1 << 20
_AT_A_TIME = 8

#: The parts of a room's memory that are written on one host each, and a rank of that.
Parts: TypeAlias = "list[tuple[int, npt.NDArray[Any]]]"

#: Writes what is from one offset in a room to another.
Write: TypeAlias = Callable[[int, int], object]


class _Piece(NamedTuple):
    """What the first rank of a host passes on at a time."""

    number: int
    """The host."""
    part: npt.NDArray[Any]


class Relay:
    """Communicators of the ranks of each host, and of the first ranks of the hosts."""

    def __init__(self, internal: MPI.Intracomm, hosts: Hosts) -> None:
        """Make them; collective."""
        self._numbers = hosts.numbers
        self._mine = hosts.numbers[internal.rank]
        #: The ranks of this host.
        self.near = internal
        self._made: list[MPI.Intracomm] = []
        if hosts.count > 1:
            color = 0 if hosts.first == internal.rank else MPI.UNDEFINED
            for each in (self._mine, color):
                self._made.append(MPI.Intracomm(internal.Split(each, internal.rank)))
            self.near = self._made[0]

    def free(self) -> None:
        """Free the communicators; collective."""
        for comm in self._made:
            if comm:
                comm.Free()

    def passing(self, room: MemoryRoom, parts: Parts, write: Write | None) -> Callable[[], None]:
        """Return what passes parts on, to be called by the first ranks of all hosts together.

        All hosts send at the same time, one with `write` what that writes just before. What fails
        in it is raised when all have moved. `MemoryError` here if there is none for copies.
        """
        pieces = _pieces(parts, self._numbers, room.memory)
        most = max([each.part.nbytes for each in pieces], default=0)
        copies = [np.empty(most, np.uint8) for _ in range(min(_AT_A_TIME, max(1, len(pieces))))]
        return partial(self._move, room, pieces, copies, write)

    def _move(
        self,
        room: MemoryRoom,
        pieces: list[_Piece],
        copies: Sequence[npt.NDArray[np.uint8]],
        write: Write | None,
    ) -> None:
        raised: list[BaseException] = []
        going: deque[tuple[MPI.Request, _Piece, npt.NDArray[np.uint8]]] = deque()

        def attempt(work: Callable[..., object], *args: Any) -> None:
            try:
                work(*args)
            except BaseException as error:  # the others wait for this rank's share in what follows
                raised.append(error)

        turns = chain(pieces, repeat(None, len(copies)))
        for piece, copy in zip(turns, cycle(copies), strict=False):
            if len(going) == len(copies) or (piece is None and going):
                request, came, data = going.popleft()
                attempt(partial(doze, [request], awake=True))
                if came.number != self._mine and not raised:
                    attempt(_unpack, room, came.part, data)
            if piece is None:
                continue
            data, is_mine = copy[: piece.part.nbytes], piece.number == self._mine
            if is_mine and write is not None and not raised:
                attempt(write, *span(piece.part, room.memory))
            contiguous = piece.part.flags.c_contiguous
            if contiguous and not raised and (is_mine or isinstance(room, OwnRoom)):
                data = piece.part
            elif is_mine and not raised:
                _shaped(data, piece.part)[...] = piece.part
            going.append((self._made[1].Ibcast(data, piece.number), piece, data))
        if raised:
            raise raised[-1]


def _unpack(room: MemoryRoom, part: npt.NDArray[Any], data: npt.NDArray[np.uint8]) -> None:
    """Put what has come into its place."""
    if data is part:
        return
    start, stop = span(part, room.memory)
    if part.flags.c_contiguous:
        room.fill([(start, data.data)], alone=True)
    else:
        room.reserve(start, stop)
        part[...] = _shaped(data, part)


def _shaped(data: npt.NDArray[np.uint8], part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return data.view(part.dtype).reshape(part.shape)


def _pieces(parts: Parts, numbers: list[int], memory: npt.NDArray[np.uint8]) -> list[_Piece]:
    """Return the parts in pieces, the hosts in turn."""
    of_hosts: dict[int, list[npt.NDArray[Any]]] = {}
    for writer, part in parts:
        of_hosts.setdefault(numbers[writer], []).append(part)
    queues = [
        [_Piece(number, piece) for part in _joined(own, memory) for piece in _cut(part)]
        for number, own in of_hosts.items()
    ]
    return [piece for turn in zip_longest(*queues) for piece in turn if piece is not None]


def _joined(parts: list[npt.NDArray[Any]], memory: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
    """Return parts of a memory, neighbours in it as one; contiguous ones as bytes."""
    joined: list[npt.NDArray[Any]] = []
    start = end = -1
    for part in parts:
        if not part.nbytes:
            continue
        if part.flags.c_contiguous:
            at, stop = span(part, memory)
            if at == end:
                joined.pop()
            else:
                start = at
            part, end = memory[start:stop], stop
        else:
            end = -1
        joined.append(part)
    return joined


def _cut(part: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield a part in pieces along its first axis; of long rows pieces of each."""
    if part.flags.c_contiguous:
        part = part.reshape(-1).view(np.uint8)
    rows = max(1, _PIECE * len(part) // part.nbytes)
    for n in range(0, len(part), rows):
        if rows == 1 and part.ndim > 1:
            yield from _cut(part[n])
        else:
            yield part[n : n + rows]
