"""Rooms: which way a large object takes. This is the one place that decides it.

To a rank of the same host it goes by memory of that host, to another host by MPI. Where a host's
memory does not suffice, it goes by one file of the store; where that has no space either, MPI
carries it as it carries small ones.
"""

from __future__ import annotations

import contextlib
import logging
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from fsexchange.errors import FsExchangeError, RemoteError
from fsexchange.mpi import wire
from fsexchange.mpi.message import length
from fsexchange.mpi.room import (
    NOWHERE,
    PAGE,
    PLACE_SIZE,
    HostRoom,
    MemoryRoom,
    OwnRoom,
    Room,
    StoreRoom,
    content,
    enter,
    pages,
    span,
)

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector
    from fsexchange.mpi.codec import Memory
    from fsexchange.mpi.hosts import Hosts
    from fsexchange.mpi.message import Pieces

_R = TypeVar("_R")

# What a rank tells all others of a step: done; it could not; Ctrl-C.
_DONE, _REFUSED, _INTERRUPTED = range(3)

# Bytes of what the first ranks of the hosts pass on, longer if it is contiguous, and how many of
# these at a time.
_PIECE, _LONG_PIECE = 1 << 23, 1 << 26
_AT_A_TIME = 8

# Seconds that a dozing rank sleeps between two looks.
_SHORTEST_NAP, _LONGEST_NAP = 5e-5, 1e-2

# Where a room is, its bytes, and where in it a rank's part starts.
_OFFER = struct.Struct(f"<{PLACE_SIZE}sQQ")
# In place of that: there is no room; the root was interrupted.
_ROOMLESS, _INTERRUPTED_OFFER = _OFFER.pack(NOWHERE, 0, 0), _OFFER.pack(NOWHERE, 0, 1)

# What says that there is no room, or that a rank cannot use it.
_NO_ROOM = (OSError, MemoryError, FsExchangeError)

_log = logging.getLogger("fsexchange")

#: The parts of a room's memory that are written on one host each, and a rank of that.
Parts: TypeAlias = "list[tuple[int, npt.NDArray[Any]]]"


class _Piece(NamedTuple):
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


class Rooms:
    """The rooms of the ranks of a communicator. A room is for one call of a verb."""

    def __init__(self, internal: MPI.Intracomm, connector: FileConnector, hosts: Hosts) -> None:
        self._internal = internal
        self._connector = connector
        self._hosts = hosts
        self._rank, self._size = internal.rank, internal.size
        self._is_first = hosts.first == self._rank
        self._firsts: MPI.Intracomm | None = None
        self._said = False

    def free(self) -> None:
        """Free the communicator of the hosts' first ranks, if there is one; collective."""
        if self._firsts:
            self._firsts.Free()

    # ---- rooms that all ranks enter together ----------------------------------------------------

    def for_all(
        self, nbytes: int, fill: Callable[[Room], object], parts: Callable[[MemoryRoom], Parts]
    ) -> Memory | None:
        """Return what all ranks write together, as memory of the caller's own; collective.

        `fill` writes the parts of this rank; `parts` says who writes what, for the hosts' first
        ranks, which pass it on. None if there is no room: then MPI must carry it.
        """
        if self._firsts is None and self._hosts.count > 1:
            color = 0 if self._is_first else MPI.UNDEFINED
            self._firsts = MPI.Intracomm(self._internal.Split(color, self._rank))

        def take(room: Room) -> Memory:
            return room.take(0, nbytes)

        taken: Memory | None = self._together(nbytes, nbytes, fill, fill, take, parts)
        return taken

    def for_hosts(
        self,
        nbytes: Sequence[int],
        fill: Callable[[Room, int], object],
        take: Callable[[Room, list[int]], Any],
    ) -> Any:
        """Return what `take` takes of what the ranks of each host write for each other; collective.

        Each rank has `nbytes[rank]` bytes to write. `fill` gets where in the room its part starts,
        `take` where those of all ranks do. None if there is no room.
        """
        numbers, mine = self._hosts.numbers, self._hosts.numbers[self._rank]
        here = [n if number == mine else 0 for n, number in zip(nbytes, numbers, strict=True)]
        near, everywhere = _starts(here), _starts(nbytes)
        return self._together(
            max(PAGE, sum(here)),
            sum(nbytes),
            lambda room: fill(room, near[self._rank]),
            lambda room: fill(room, everywhere[self._rank]),
            lambda room: take(room, everywhere if isinstance(room, StoreRoom) else near),
        )

    def _together(
        self,
        nbytes: int,
        of_file: int,
        fill: Callable[[MemoryRoom], object],
        write: Callable[[Room], object],
        take: Callable[[Room], Any],
        parts: Callable[[MemoryRoom], Parts] | None = None,
    ) -> Any:
        """Return what this rank takes of a room of `nbytes` of each host, else of one file."""
        with contextlib.ExitStack() as last:
            made: MemoryRoom | None = None
            if len(self._hosts.near) == 1:
                made = self._made(OwnRoom, nbytes)
            elif self._is_first:
                made = self._made(HostRoom.make, nbytes)
            places = bytearray(PLACE_SIZE * self._size)
            self._internal.Allgather(NOWHERE if made is None else made.place, places)
            if made is not None:
                last.callback(made.close)
            offers = [places[n * PLACE_SIZE :][:PLACE_SIZE] for n in self._hosts.firsts]
            if NOWHERE not in offers:
                rooms: list[Any] = [] if made is None else [made]
                groups: list[list[_Piece]] = []

                def lay_out() -> None:
                    if made is None:
                        place = offers[self._hosts.numbers[self._rank]]
                        rooms.append(enter(place, nbytes, self._connector))
                        last.callback(rooms[0].close)
                    fill(rooms[0])
                    if parts is not None and self._hosts.count > 1:
                        self._reserve(rooms[0], parts(rooms[0]))
                        if self._is_first:
                            groups.extend(self._to_pass_on(parts(rooms[0])))

                done = self._step(lay_out)
                if done and parts is not None and self._hosts.count > 1:
                    done = self._step(lambda: self._pass_on(groups))
                if done:
                    return take(rooms[0])
        self._say(nbytes)
        return self._by_store(of_file, write, take)

    def _reserve(self, room: MemoryRoom, parts: Parts) -> None:
        """Have the kernel give memory for this rank's share of what other hosts pass on."""
        near = self._hosts.near
        n = near.index(self._rank)
        for writer, part in parts:
            if writer not in near and part.size:
                start, stop = span(part, room.memory)
                cuts = [start + pages((stop - start) * m // len(near)) for m in (n, n + 1)]
                room.reserve(cuts[0], min(stop, cuts[1]))

    def _by_store(
        self, nbytes: int, write: Callable[[Room], object], take: Callable[[Room], Any]
    ) -> Any:
        """Return what this rank takes of one file of the store, None if that has no space."""
        with contextlib.ExitStack() as last:
            place = bytearray(NOWHERE)
            if self._rank == 0:
                made = self._made(lambda n: StoreRoom.make(self._connector, n), nbytes)
                if made is not None:
                    last.callback(made.close)
                    place[:] = made.place
            self._internal.Bcast(place, 0)
            if place == NOWHERE:
                return None
            room = enter(place, nbytes, self._connector)
            if not self._step(lambda: write(room)):
                return None
            try:
                return take(room)
            finally:  # a rank that has no memory for it raises that; the others have theirs
                self._tell(_DONE)

    def _to_pass_on(self, parts: Parts) -> list[list[_Piece]]:
        """Return what the first ranks of the hosts pass on, in groups that move at a time.

        All hosts send at the same time. `MemoryError` if there is none for copies of what is not
        contiguous.
        """
        queues: dict[int, list[npt.NDArray[Any]]] = {}
        for writer, part in parts:
            queues.setdefault(self._hosts.numbers[writer], []).extend(_pieces(part))
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
            made.append(_Piece(number, piece, data))
        return [made[n : n + _AT_A_TIME] for n in range(0, len(made), _AT_A_TIME)]

    def _pass_on(self, groups: list[list[_Piece]]) -> None:
        """Have the first ranks of the hosts pass on what was written on each."""
        if not self._firsts:
            return
        mine = self._hosts.numbers[self._rank]
        for group in groups:
            for each in group:
                if each.number == mine:
                    each.pack()
            moving = [self._firsts.Ibcast(each.data, each.number) for each in group]
            doze(moving, awake=True)
            for each in group:
                if each.number != mine:
                    each.unpack()

    # ---- rooms between a root and ranks of its host ---------------------------------------------

    # The root offers places in its room, `_ROOMLESS` if it has none; the others answer whether they
    # could use them.

    def give(self, messages: dict[int, Pieces]) -> list[int]:
        """Give ranks messages; return those that have not got theirs. Called by the root."""
        with self._room(sum(pages(length(each[0])) for each in messages.values())) as room:
            offers, at = {}, 0
            for rank, message in messages.items():
                offers[rank] = at
                at += pages(length(message[0]))
            try:
                if room is not None:
                    for rank, start in offers.items():
                        room.fill(content(messages[rank], start), alone=True)
            except _NO_ROOM:
                room = None
            except BaseException:  # Ctrl-C: the others wait for the offers
                for rank in messages:
                    self._internal.Send(_INTERRUPTED_OFFER, rank, wire.OFFER)
                raise
            answers = self._offer(room, offers)
            return [rank for rank in messages if answers[rank] == _REFUSED]

    def given(self, root: int, nbytes: int) -> Memory | None:
        """Return the message that the root gives this rank; None if there is no room for it."""
        memory: Memory | None = self._accept(root, lambda room, at: room.take(at, nbytes))
        return memory

    def collect(self, lengths: dict[int, int]) -> dict[int, Memory | None]:
        """Return messages of ranks, but those for which is no room. Called by the root.

        None in place of that of a rank that was interrupted.
        """
        starts = dict(
            zip(lengths, accumulate(map(pages, lengths.values()), initial=0), strict=False)
        )
        total = sum(map(pages, lengths.values()))
        with self._room(total) as room:
            answers = self._offer(room, starts)
            taken: dict[int, Memory | None]
            taken = {rank: None for rank in starts if answers[rank] == _INTERRUPTED}
            done = [rank for rank in starts if answers[rank] == _DONE]
            if room is not None and done:
                memory = memoryview(room.take(0, total))
                taken.update((rank, memory[starts[rank] :][: lengths[rank]]) for rank in done)
            return taken

    def hand_in(self, root: int, message: Pieces) -> bool:
        """Pass the root this rank's message, and return whether there was room for it."""

        def fill(room: Room, at: int) -> bool:
            room.fill(content(message, at))
            return True

        return bool(self._accept(root, fill))

    @contextlib.contextmanager
    def _room(self, nbytes: int) -> Iterator[Room | None]:
        """Make a room for ranks of this host, for as long as the block runs."""
        room: Room | None = self._made(HostRoom.make, nbytes)
        if room is None:
            self._say(nbytes)
            room = self._made(lambda n: StoreRoom.make(self._connector, n), nbytes)
        try:
            yield room
        finally:
            if room is not None:
                room.close()

    def _offer(self, room: Room | None, starts: dict[int, int]) -> dict[int, int]:
        """Tell ranks where in a room their parts start, and return how they fared with them."""
        for rank, at in starts.items():
            offer = _ROOMLESS if room is None else _OFFER.pack(room.place, room.nbytes, at)
            self._internal.Send(offer, rank, wire.OFFER)
        if room is None:
            return dict.fromkeys(starts, _REFUSED)
        answers = {rank: bytearray(1) for rank in starts}
        doze([self._internal.Irecv(each, rank, wire.WRITTEN) for rank, each in answers.items()])
        return {rank: answer[0] for rank, answer in answers.items()}

    def _accept(self, root: int, use: Callable[[Room, int], Any]) -> Any:
        """Return what `use` makes of the part that the root offers; None if it cannot."""
        offer = bytearray(_ROOMLESS)
        used, answer = None, _INTERRUPTED
        try:
            doze([self._internal.Irecv(offer, root, wire.OFFER)])
            if offer == _INTERRUPTED_OFFER:
                raise self._interrupted(root)
            if offer != _ROOMLESS:
                place, nbytes, at = _OFFER.unpack(offer)
                with contextlib.closing(enter(place, nbytes, self._connector)) as room:
                    used = use(room, at)
            answer = _DONE
        except _NO_ROOM:
            if offer == _INTERRUPTED_OFFER:
                raise
            answer = _REFUSED  # a message has it then
        finally:
            if offer not in (_ROOMLESS, _INTERRUPTED_OFFER):
                self._internal.Send(bytes([answer]), root, wire.WRITTEN)
        return used

    # ---- which way ------------------------------------------------------------------------------

    def _made(self, make: Callable[[int], _R], nbytes: int) -> _R | None:
        try:
            return make(nbytes)
        except _NO_ROOM:
            return None

    def _say(self, nbytes: int) -> None:
        """Say once that files of the store are used."""
        if self._is_first and not self._said:
            self._said = True
            _log.warning(
                "the memory of a host does not suffice for %d bytes that ranks share: such objects "
                "go through files in %s, where that has space, which is slower",
                nbytes,
                self._connector.store_dir,
            )

    # ---- steps that all ranks take together -----------------------------------------------------

    def _step(self, work: Callable[[], object]) -> bool:
        """Do this rank's part of a step, wait for all, and return whether all have done theirs.

        `RemoteError` if another rank was interrupted.
        """
        done = _DONE
        try:
            work()
        except _NO_ROOM:
            done = _REFUSED
        except BaseException:  # Ctrl-C: the others wait for this rank
            self._tell(_INTERRUPTED)
            raise
        told = self._tell(done)
        if _INTERRUPTED in told:
            raise self._interrupted(told.index(_INTERRUPTED))
        return not any(told)

    def _interrupted(self, rank: int) -> RemoteError:
        host = self._hosts.names[rank]
        said = f"rank {rank} ({host}) was interrupted in its part of this call"
        return RemoteError(said, rank=rank, host=host)

    def _tell(self, done: int) -> bytearray:
        told = bytearray(self._size)
        doze([self._internal.Iallgather(bytes([done]), told)])
        return told


def doze(requests: Sequence[MPI.Request], *, awake: bool = False) -> None:
    """Wait for requests, asleep most of the time, at most a twentieth longer than it takes.

    A rank that waits in MPI keeps its core busy, which others may need where ranks share cores;
    `awake` does, as MPI moves no data meanwhile. What a signal's handler raises comes after the
    wait: others are in step with this rank.
    """
    began, raised = time.perf_counter(), None
    while True:
        try:
            if awake:
                MPI.Request.Waitall(requests)
            if MPI.Request.Testall(requests):
                break
            time.sleep(min(_LONGEST_NAP, _SHORTEST_NAP + (time.perf_counter() - began) / 20))
        except BaseException as error:
            raised = error
    if raised is not None:
        raise raised


def _starts(nbytes: Sequence[int]) -> list[int]:
    return [0, *accumulate(nbytes)][:-1]


def _pieces(part: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield a part in pieces along its first axis."""
    if part.nbytes:
        most = _LONG_PIECE if part.flags.c_contiguous else _PIECE
        rows = max(1, most * len(part) // part.nbytes)
        for n in range(0, len(part), rows):
            yield part[n : n + rows]
