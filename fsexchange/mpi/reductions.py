"""Reductions: an operation over the objects of all ranks, in their order, as mpi4py calls it.

The ranks exchange their objects and each that needs the result makes it: small objects need one
collective. In place of a large array that MPI could reduce a rank first sends its description. If
those of all ranks are equal, MPI reduces the arrays: for all ranks, each of them makes a share of
the result, in memory that its host shares.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise, starmap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from mpi4py import MPI

from fsexchange.mpi import wire
from fsexchange.mpi.collectives import Collectives, Failed, checked
from fsexchange.mpi.limits import REDUCED_BY_ROOM
from fsexchange.mpi.room import pages

if TYPE_CHECKING:
    import numpy.typing as npt

    from fsexchange.mpi.codec import Memory
    from fsexchange.mpi.relay import Parts
    from fsexchange.mpi.room import MemoryRoom, Room

#: MPI's operations on arrays that are numpy's, element by element, and the types that they take.
#: The others compare whole objects; numpy's arrays of bool add as MPI's do not, and Open MPI's sums
#: of 8 and 16 bits saturate on processors with AVX.
_NUMBERS, _INTEGERS = "iIlLqQfdFD", "bBhHiIlLqQ"
_OPS = (
    (MPI.SUM, _NUMBERS),
    (MPI.PROD, _NUMBERS),
    (MPI.BAND, _INTEGERS),
    (MPI.BOR, _INTEGERS),
    (MPI.BXOR, _INTEGERS),
)

# Bytes from which an array is described first. Below, a message costs as much as its description.
_DESCRIBED_FROM = 1 << 12

# Bytes of an array that each rank reduces at a time: so much stays in a processor's caches.
_SHARE = 1 << 20


class Described(NamedTuple):
    """What ranks must have in common so that MPI can reduce their arrays."""

    op: int
    """The position in `_OPS`; -1 for an object that MPI cannot reduce."""
    dtype: str
    shape: tuple[int, ...]


class Reductions:
    """The verbs that reduce; collective."""

    def __init__(self, collectives: Collectives) -> None:
        self._collectives = collectives
        self._internal = collectives.internal
        self._rank = collectives.rank

    def reduce(self, obj: Any, op: Any, root: int) -> Any:
        """Return the result on the root, None on the others."""
        mine = describe(obj, op)
        sent = obj if mine is None else mine
        late: list[BaseException] = []
        objs = self._collectives.gather_some(wire.REDUCE, sent, root, late=late)
        result = self._reduced(obj, op, root, mine, objs, late)
        if late:
            raise late[0]
        return result

    def _reduced(
        self,
        obj: Any,
        op: Any,
        root: int,
        mine: Described | None,
        objs: list[Any] | None,
        late: list[BaseException],
    ) -> Any:
        if objs is None:
            if mine is None:
                return None
            if self._received(root, late):
                self._internal.Reduce(obj, None, op, root)
            else:
                self._internal.send(obj, root, wire.SENT_ANYWAY)
            return None
        if Described not in map(type, objs):
            return fold(checked(objs), op)
        described = [rank for rank, each in enumerate(objs) if type(each) is Described]
        alike = len(described) == len(objs) and objs.count(objs[0]) == len(objs)
        for rank in described:
            if rank != root:
                self._internal.send(alike, rank, wire.SENT_ANYWAY)
        if alike:
            result = np.empty_like(obj)
            self._internal.Reduce(obj, result, op, root)
            return result
        for rank in described:
            if rank == root:
                objs[rank] = obj.copy()
            else:
                objs[rank] = self._received(rank, late)
        return fold(checked(objs), op)

    def _received(self, rank: int, late: list[BaseException]) -> Any:
        """Return what a rank sends; what a handler raised meanwhile comes late."""
        received: list[Any] = []
        try:
            received.extend(map(self._internal.recv, (None,), (rank,), (wire.SENT_ANYWAY,)))
        except BaseException as error:
            if not received:
                raise
            late.append(error)
        return received[0]

    def allreduce(self, obj: Any, op: Any) -> Any:
        """Return the result on every rank."""
        mine = describe(obj, op)
        late: list[BaseException] = []
        sent = obj if mine is None else mine
        objs = checked(self._collectives.allgather_some(wire.ALLREDUCE, sent, late=late))
        if set(map(type, objs)) == {Described} and objs.count(objs[0]) == len(objs):
            result = self._allreduced(obj, op)
        elif Described in map(type, objs):
            result = fold(self._collectives.allgather(obj), op)
        else:
            result = fold(objs, op)
        if late:
            raise late[0]
        return result

    def _allreduced(self, obj: npt.NDArray[Any], op: MPI.Op) -> npt.NDArray[Any]:
        """Return the result of arrays that MPI can reduce."""
        if self._collectives.by_room(obj.nbytes, REDUCED_BY_ROOM):
            shares = _shares(obj.nbytes, self._internal.size)
            mine = [ends[self._rank] for ends in shares]
            into = np.empty(_SHARE, np.uint8)
            calls = _calls(obj, op, shares, [into[: end - start] for start, end in mine])

            def fill(room: Room) -> None:
                reducing = starmap(self._internal.Reduce_scatter, calls)
                try:
                    room.fill(_pieces(reducing, mine, into))
                finally:  # the others wait for this rank's part in the pieces that follow
                    deque(reducing, 0)

            def parts(room: MemoryRoom) -> Parts:
                memory = room.memory
                each = [(n, memory[slice(*ends)]) for s in shares for n, ends in enumerate(s)]
                return [(rank, part) for rank, part in each if part.size]

            rooms = self._collectives.rooms
            memory = rooms.for_all(obj.nbytes, fill, parts, collective=True)
            if memory is not None:
                return np.frombuffer(memory, obj.dtype).reshape(obj.shape)
        result = np.empty_like(obj)
        self._internal.Allreduce(obj, result, op)
        return result

    def scan(self, obj: Any, op: Any, *, without_own: bool = False) -> Any:
        """Return the result of the ranks up to this one, or before it: None on rank 0."""
        objs = self._collectives.allgather_some(wire.EXSCAN if without_own else wire.SCAN, obj)
        if type(objs[self._rank]) is Failed:
            raise objs[self._rank].error
        return prefix(checked(objs[: self._rank + 1]), op, without_own=without_own)


def _shares(nbytes: int, size: int) -> list[list[tuple[int, int]]]:
    """Return pieces of an array, and of each from where to where the ranks make it."""
    shares = []
    for start in range(0, nbytes, size * _SHARE):
        end = min(nbytes, start + size * _SHARE)
        share = pages(-(-(end - start) // size))
        shares.append([*pairwise([min(end, start + n * share) for n in range(size + 1)])])
    return shares


def _calls(
    obj: npt.NDArray[Any],
    op: MPI.Op,
    shares: list[list[tuple[int, int]]],
    into: list[npt.NDArray[np.uint8]],
) -> list[tuple[Any, ...]]:
    """Return for each piece of an array what MPI gets to reduce it, and where to."""
    data = obj.reshape(-1).view(np.uint8)
    calls = []
    for ends, share in zip(shares, into, strict=True):
        counts = [(end - start) // obj.itemsize for start, end in ends]
        part = data[ends[0][0] : ends[-1][1]].view(obj.dtype)
        calls.append((part, share.view(obj.dtype), counts, op))
    return calls


def _pieces(
    reducing: Iterable[None], mine: list[tuple[int, int]], into: npt.NDArray[np.uint8]
) -> Iterator[tuple[int, Memory]]:
    """Yield what this rank has of the result, each piece with its offset; collective.

    What is left of `reducing` is right whatever a handler of a signal raises here.
    """
    for _, (start, end) in zip(reducing, mine, strict=False):
        if start < end:
            yield start, into[: end - start].data


def describe(obj: Any, op: Any) -> Described | None:
    """Return the description of a large array that MPI could reduce; None for what it could not."""
    if type(obj) is not np.ndarray or obj.nbytes < _DESCRIBED_FROM or not isinstance(op, MPI.Op):
        return None
    dtype = obj.dtype
    if not (dtype.isbuiltin == 1 and dtype.isnative and obj.flags.c_contiguous and obj.ndim):
        return None
    for n, (known, types) in enumerate(_OPS):
        if op == known:
            return Described(n, dtype.char, obj.shape) if dtype.char in types else None
    return None


def fold(objs: list[Any], op: Any) -> Any:
    """Return `op` over the objects, neighbours first, then neighbouring pairs, as mpi4py does.

    So results are mpi4py's to the last bit, also where rounding depends on the order.
    """
    while len(objs) > 2:
        odd = objs[-1:] if len(objs) % 2 else []
        objs = [*map(op, objs[::2], objs[1::2]), *odd]
    return op(*objs) if len(objs) == 2 else objs[0]


def prefix(objs: list[Any], op: Any, *, without_own: bool) -> Any:
    """Return `op` over the objects, or all but the last, in the order of mpi4py's scan.

    That goes back from the last object, by blocks of 1, 2, 4, ... objects, each of them folded.
    """
    end = len(objs) - 1
    result = None if without_own else objs[end]
    empty = without_own
    block = 1
    while end:
        if end & block:
            part = fold(objs[end - block : end], op)
            result = part if empty else op(part, result)
            empty = False
            end -= block
        block *= 2
    return result
