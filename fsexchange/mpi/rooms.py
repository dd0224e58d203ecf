"""Rooms: where an object goes that is too large for messages, see `limits`.

What all ranks get, and what a root gathers, goes to ranks of the same host by memory of that host,
to another host by MPI. Where a host's memory does not suffice, it goes by one file of the store;
where that has no space either, MPI carries it as it carries small ones.

What one rank alone gets (`scatter`, `alltoall`) takes as much memory either way. MPI puts it into
the receiver's own: in 0.3 to 0.9 of the time, for 9 to 64 MiB among 2 or 4 ranks of a host.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import struct
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, chain, repeat
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from mpi4py import MPI

from fsexchange.errors import FsExchangeError, RemoteError
from fsexchange.mpi import wire
from fsexchange.mpi.doze import doze
from fsexchange.mpi.relay import Relay
from fsexchange.mpi.room import (
    NOWHERE,
    PLACE_SIZE,
    HostRoom,
    MemoryRoom,
    OwnRoom,
    Room,
    StoreRoom,
    content,
    enter,
    pages,
)
from fsexchange.serialize.reasons import is_of_handler

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector
    from fsexchange.mpi.codec import Memory
    from fsexchange.mpi.hosts import Hosts
    from fsexchange.mpi.message import Pieces
    from fsexchange.mpi.relay import Parts

_R = TypeVar("_R")

# What a rank tells the others of a step: done; it could not; Ctrl-C, to all with its rank added.
_DONE, _REFUSED, _INTERRUPTED = range(3)

# Where a room is, its bytes, and where in it a rank's part starts.
_OFFER = struct.Struct(f"<{PLACE_SIZE}sQQ")
# In place of that: there is no room.
_ROOMLESS = _OFFER.pack(NOWHERE, 0, 0)

# What says that there is no room, or that a rank cannot use it.
_NO_ROOM = (OSError, MemoryError, FsExchangeError)

_log = logging.getLogger("fsexchange")


class Rooms:
    """The rooms of the ranks of a communicator. A room is for one call of a verb."""

    def __init__(self, internal: MPI.Intracomm, connector: FileConnector, hosts: Hosts) -> None:
        self._internal = internal
        self._connector = connector
        self._hosts = hosts
        self._rank, self._size = internal.rank, internal.size
        self._is_first = hosts.first == self._rank
        self._relay: Relay | None = None
        self._said = False

    def free(self) -> None:
        """Free the communicators that were made, and memory that is kept; collective."""
        HostRoom.forget()
        if self._relay is not None:
            self._relay.free()

    # ---- rooms that all ranks enter together ----------------------------------------------------

    def for_all(
        self,
        nbytes: int,
        fill: Callable[[Room], object],
        parts: Callable[[MemoryRoom], Parts],
        write: Callable[[Room, int, int], object] | None = None,
        *,
        collective: bool = False,
        begun: list[object] | None = None,
    ) -> Memory | None:
        """Return what all ranks write together, as memory of the caller's own; collective.

        `fill` writes the parts of this rank, at the same time on all ranks if it is `collective`;
        `parts` says who writes what, for the hosts' first ranks, which pass it on. One with `write`
        is the only rank that writes, and can write what is from one offset to another. None if
        there is no room: then MPI must carry it. `begun` gets something as soon as others hear what
        is raised here.
        """
        begun = [] if begun is None else begun
        if self._relay is None:
            self._relay = Relay(self._internal, self._hosts)
        relay, passes_on = self._relay, self._hosts.count > 1
        with contextlib.ExitStack() as last:
            rooms: list[MemoryRoom] = []
            passing: list[Callable[[], None]] = []

            def lay_out() -> None:
                room = self._enter(relay.near, nbytes)
                rooms.append(room)
                last.callback(room.close)
                last.callback(passing.clear)  # before it closes, as that shows its memory
                if not collective and (write is None or not passes_on or not self._is_first):
                    fill(room)
                if passes_on and self._is_first:
                    written = None if write is None else partial(write, room)
                    passing.append(relay.passing(room, parts(room), written))

            def pass_on() -> None:
                for each in passing:
                    each()

            steps: list[Callable[[], object]] = [lay_out]
            if collective:  # once all ranks have the room
                steps.append(lambda: fill(rooms[0]))
            if passes_on:
                steps.append(pass_on)
            if self._steps(*steps, begun=begun):
                rooms[0].keep()
                return rooms[0].take(0, nbytes)
        self._say(nbytes)
        memory = self._by_store(nbytes, fill)
        if memory is None:
            begun.clear()
        return memory

    def _enter(self, near: MPI.Intracomm, nbytes: int) -> MemoryRoom:
        """Return the room of this host, which its first rank makes."""
        if len(self._hosts.near) == 1:
            return OwnRoom(nbytes)
        place = bytearray(NOWHERE)
        room: HostRoom | None = None
        try:
            if self._is_first:
                room = HostRoom.make_again(nbytes)
                place[:] = room.place
        finally:  # whatever is raised, all ranks of the host take part
            near.Bcast(place, 0)
        if place == NOWHERE:
            raise OSError(errno.ENOMEM, "the first rank of this host has no room")
        return HostRoom.enter(place, nbytes) if room is None else room

    def _by_store(self, nbytes: int, write: Callable[[Room], object]) -> Memory | None:
        """Return what all ranks write together into one file, None if the store has no space."""
        with contextlib.ExitStack() as last:
            place = bytearray(NOWHERE)
            rooms: list[Room] = []

            def make() -> None:
                if self._rank == 0:
                    made = StoreRoom.make(self._connector, nbytes)
                    last.callback(made.close)
                    rooms.append(made)
                    place[:] = made.place

            if not self._steps(make):
                return None
            self._internal.Bcast(place, 0)
            if not rooms:
                rooms.append(enter(place, nbytes, self._connector))
                last.callback(rooms[0].close)
            room = rooms[0]
            if not self._steps(lambda: write(room)):
                return None
            try:
                return room.take(0, nbytes)
            finally:  # a rank that has no memory for it raises that; the others have theirs
                self._told(_DONE, [])

    # ---- rooms between a root and ranks of its host ---------------------------------------------

    # The root offers places in its room, `_ROOMLESS` if it has none; the others answer whether they
    # could fill them. What a method raises the others hear of once `begun` has something.

    def collect(
        self, lengths: dict[int, int], missed: list[int], begun: list[object]
    ) -> dict[int, Memory | None]:
        """Return messages of ranks, but those for which is no room. Called by the root.

        These are `missed`, whatever is raised. Of a rank that was interrupted it is None.
        """
        starts = dict(
            zip(lengths, accumulate(map(pages, lengths.values()), initial=0), strict=False)
        )
        total = sum(map(pages, lengths.values()))
        with self._room(total) as room:
            answers = self._offer(room, starts, missed, begun)
            if room is not None and self._is_first:  # of a host only one rank keeps memory
                room.keep()
            taken: dict[int, Memory | None]
            taken = {rank: None for rank in starts if answers[rank] == _INTERRUPTED}
            done = [rank for rank in starts if answers[rank] == _DONE]
            if room is not None and done:
                memory = memoryview(room.take(0, total))
                taken.update((rank, memory[starts[rank] :][: lengths[rank]]) for rank in done)
            return taken

    def hand_in(
        self, root: int, message: Pieces, otherwise: Callable[[], object], begun: list[object]
    ) -> None:
        """Pass the root this rank's message, by `otherwise` if there is no room for it."""
        offer = bytearray(_ROOMLESS)
        answer = _INTERRUPTED
        waiting: list[MPI.Request] = []
        try:
            waiting.extend(map(self._internal.Irecv, (offer,), (root,), (wire.OFFER,)))
            doze(waiting)
            if offer != _ROOMLESS:
                place, nbytes, at = _OFFER.unpack(offer)
                with contextlib.closing(enter(place, nbytes, self._connector)) as room:
                    room.fill(content(message, at))
            answer = _DONE
        except _NO_ROOM as error:
            if is_of_handler(error):
                raise
            answer = _REFUSED
        finally:
            begun.extend(waiting)
            MPI.Request.Waitall(waiting)
            if waiting and offer != _ROOMLESS:
                self._internal.Send(bytes([answer]), root, wire.WRITTEN)
            if waiting and (offer == _ROOMLESS or answer == _REFUSED):
                otherwise()

    @contextlib.contextmanager
    def _room(self, nbytes: int) -> Iterator[HostRoom | StoreRoom | None]:
        """Make a room for ranks of this host, for as long as the block runs."""
        room: HostRoom | StoreRoom | None = self._made(HostRoom.make_again, nbytes)
        if room is None:
            self._say(nbytes)
            room = self._made(lambda n: StoreRoom.make(self._connector, n), nbytes)
        try:
            yield room
        finally:
            if room is not None:
                room.close()

    def _offer(
        self,
        room: HostRoom | StoreRoom | None,
        starts: dict[int, int],
        missed: list[int],
        begun: list[object],
    ) -> dict[int, int]:
        """Tell ranks where in a room their parts start, and return how they fared with them."""
        offers = [
            _ROOMLESS if room is None else _OFFER.pack(room.place, room.nbytes, at)
            for at in starts.values()
        ]
        answers = {rank: bytearray([_REFUSED]) for rank in starts}
        waiting: list[MPI.Request] = []
        answering = (
            ()
            if room is None
            else map(self._internal.Irecv, answers.values(), answers, repeat(wire.WRITTEN))
        )
        sends = map(self._internal.Send, offers, starts, repeat(wire.OFFER))
        try:
            any(chain(map(waiting.append, answering), map(begun.append, sends)))
            doze(waiting)
        finally:
            MPI.Request.Waitall(waiting)
            missed += [rank for rank, answer in answers.items() if answer[0] == _REFUSED]
        return {rank: answer[0] for rank, answer in answers.items()}

    # ---- which way ------------------------------------------------------------------------------

    def _made(self, make: Callable[[int], _R], nbytes: int) -> _R | None:
        try:
            return make(nbytes)
        except _NO_ROOM as error:
            if is_of_handler(error):
                raise
            return None

    def _say(self, nbytes: int) -> None:
        """Say once that files of the store are used."""
        if self._is_first and not self._said:
            self._said = True
            _log.warning(
                "ranks of a host cannot share %d bytes in its memory: such objects go through "
                "files in %s, where that has space, which is slower",
                nbytes,
                self._connector.store_dir,
            )

    # ---- steps that all ranks take together -----------------------------------------------------

    def _steps(self, *works: Callable[[], object], begun: list[object] | None = None) -> bool:
        """Do this rank's part of steps, all ranks one after the other, up to one that some cannot.

        Return whether all have done all. `RemoteError` if another rank was interrupted.
        """
        late: BaseException | None = None
        told = _DONE
        begun = [] if begun is None else begun
        for work in works:
            mine = _DONE
            try:
                begun.append(None)
                work()
            except BaseException as error:
                begun.append(None)
                if isinstance(error, _NO_ROOM) and not is_of_handler(error):
                    mine = _REFUSED
                else:
                    late = error
            asked: list[Any] = []
            while True:  # whatever is raised, the others hear of it
                try:
                    told = self._told(mine if late is None else _INTERRUPTED + self._rank, asked)
                    break
                except MPI.Exception:
                    raise
                except BaseException as error:
                    late = error
            if told >= _INTERRUPTED:
                raise late or self._interrupted(told - _INTERRUPTED)
            if told != _DONE:
                break
        if late is not None:
            raise late
        return told == _DONE

    def _interrupted(self, rank: int) -> RemoteError:
        host = self._hosts.names[rank]
        said = f"rank {rank} ({host}) was interrupted in its part of this call"
        return RemoteError(said, rank=rank, host=host)

    def _told(self, mine: int, asked: list[Any]) -> int:
        """Return the most that any rank tells. If a handler raises, it is to be called again.

        Then with the same list, which has what was asked.
        """
        if len(asked) < 2:
            asked[:] = [np.array([mine], np.int32)]
            asked.extend(map(self._internal.Iallreduce, (MPI.IN_PLACE,), asked[:1], (MPI.MAX,)))
        doze(asked[1:])
        return int(asked[0][0])
