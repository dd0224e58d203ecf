"""Collectives: verbs that all ranks call together, with objects in messages or in files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fsexchange.errors import MissingObjectError
from fsexchange.mpi import wire
from fsexchange.mpi.message import (
    Message,
    Pieces,
    a_call,
    decode,
    failure,
    is_in_file,
    is_stand_by,
    private,
    stand_by,
)
from fsexchange.mpi.outgoing import Outgoing, outgoing, outgoing_each, spill
from fsexchange.mpi.packets import Packets
from fsexchange.serialize import deserialize

if TYPE_CHECKING:
    from mpi4py import MPI

    from fsexchange.connector.connector import FileConnector
    from fsexchange.connector.keys import FileKey
    from fsexchange.mpi.codec import Codec

#: What a rank sends in place of an object, see `outgoing`.
Make = Callable[[Any], Any]


class Failed(NamedTuple):
    """Stands for an object that could not be had."""

    error: Exception
    own: bool
    """Whether this rank itself could not send it."""


class Collectives:
    """The collective verbs. Each takes what a rank sends, and returns the objects that it receives.

    A file that a verb writes is removed before the verb returns on the rank that wrote it. The
    error of a rank is raised there, and as `RemoteError` by every rank that waits for its message.
    What a rank sends is its object, or with `make` what that returns for it.
    """

    def __init__(
        self,
        internal: MPI.Intracomm,
        codec: Codec,
        connector: FileConnector,
        hosts: Sequence[str],
        inline_limit: int,
    ) -> None:
        self.internal = internal
        self.encode = codec.encode
        self._connector = connector
        self._hosts = hosts
        self._inline_limit = inline_limit
        self._packets = Packets(internal, hosts)
        self._calls = 0
        self.rank, self.size = internal.rank, internal.size

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._calls += 1
        self.internal.Barrier()

    def bcast(self, obj: Any, root: int, make: Make | None = None) -> Any:
        """Return the root's object; that of the other ranks is ignored."""
        call = self._call(wire.BCAST, root)
        sent = outgoing(self.encode, call, obj, make) if self.rank == root else None
        sent, message = self._from_root(self._packets.bcast, call, sent, root)
        return self._receive(sent, [(root, message)], range(self.size))[0]

    def scatter(self, objs: Any, root: int, make: Make | None = None) -> Any:
        """Return the root's object for this rank; those of the other ranks are ignored."""
        call = self._call(wire.SCATTER, root)
        sent = None
        if self.rank == root:
            sent = outgoing_each(self.encode, call, objs, self.size, "scatter", make)
        sent, message = self._from_root(self._packets.scatter, call, sent, root)
        return self._receive(sent, [(root, message)], sent.readers if sent else ())[0]

    def gather(self, obj: Any, root: int, make: Make | None = None) -> list[Any] | None:
        """Return the objects of all ranks on the root, None on the others."""
        objs = self.gather_some(wire.GATHER, obj, root, make)
        return None if objs is None else checked(objs)

    def gather_some(
        self, verb: int, obj: Any, root: int, make: Make | None = None
    ) -> list[Any] | None:
        """Return as `gather` does, `Failed` in place of what could not be had."""
        call = self._call(verb, root)
        sent = outgoing(self.encode, call, obj, make)
        sent = spill(self._connector, call, sent, self._inline_limit)
        messages = self._packets.gather(call, sent.messages[0], root)
        objs = None
        if messages is not None:
            objs = self._load(sent, enumerate(messages), last=True)
        if sent.error is not None and objs is None:
            raise sent.error
        return objs

    def allgather(self, obj: Any, make: Make | None = None) -> list[Any]:
        """Return the objects of all ranks."""
        return checked(self.allgather_some(wire.ALLGATHER, obj, make))

    def allgather_some(self, verb: int, obj: Any, make: Make | None = None) -> list[Any]:
        """Return as `allgather` does, `Failed` in place of what could not be had."""
        call = self._call(verb, 0)
        # A message is copied to every rank, a file only to every host: the limit is for all
        # objects together.
        sent = outgoing(self.encode, call, obj, make)
        sent = spill(self._connector, call, sent, self._inline_limit // self.size)
        messages = self._packets.allgather(call, sent.messages[0])
        return self._receive_some(sent, enumerate(messages), range(self.size))

    def alltoall(self, objs: Any, make: Make | None = None) -> list[Any]:
        """Return the objects of all ranks for this one."""
        call = self._call(wire.ALLTOALL, 0)
        sent = outgoing_each(self.encode, call, objs, self.size, "alltoall", make)
        sent = spill(self._connector, call, sent, self._inline_limit)
        messages = self._packets.alltoall(call, sent.messages)
        return self._receive(sent, enumerate(messages), sent.readers)

    def take(self, key: FileKey, writer: int) -> Any:
        """Return an object of the store whose key all ranks have; then its writer removes it."""
        try:
            data = self._connector.get(key)
            if data is None:
                path = self._connector.path(key)
                raise MissingObjectError(f"{path} was removed before it was received", path=path)
            return deserialize(data)
        finally:
            self._acknowledge([writer], key if self.rank == writer else None, range(self.size))

    def _call(self, verb: int, root: int) -> bytes:
        self._calls += 1
        return a_call(verb, root, self._calls)

    def _from_root(
        self,
        move: Callable[[bytes, Sequence[Pieces] | None, int], Message | None],
        call: bytes,
        sent: Outgoing | None,
        root: int,
    ) -> tuple[Outgoing | None, Message | None]:
        """Return what the root sent, perhaps in a file, and the message that this rank received."""
        if sent is None:
            message = move(call, None, root)
            if message is not None and is_stand_by(message):
                self._packets.doze(root)
                message = move(call, None, root)
            return None, message
        if sent.longest > self._inline_limit:
            everyone = len(sent.messages)
            move(call, [stand_by(call)] * everyone, root)
            try:
                sent = spill(self._connector, call, sent, self._inline_limit)
            except BaseException:  # Ctrl-C: the others wait for the message that was promised
                self._packets.wake()
                interrupted = failure(call, InterruptedError("the sender was interrupted"))
                move(call, [interrupted] * everyone, root)
                raise
            self._packets.wake()
        return sent, move(call, sent.messages, root)

    def _receive(
        self,
        sent: Outgoing | None,
        received: Iterable[tuple[int, Message | None]],
        readers: Iterable[int],
    ) -> list[Any]:
        return checked(self._receive_some(sent, received, readers))

    def _receive_some(
        self,
        sent: Outgoing | None,
        received: Iterable[tuple[int, Message | None]],
        readers: Iterable[int],
    ) -> list[Any]:
        """Return the objects of messages, and remove this rank's file once its readers have it."""
        received = list(received)
        try:
            return self._load(sent, received, last=False)
        finally:
            writers = [
                rank for rank, message in received if message is not None and is_in_file(message)
            ]
            key = None if sent is None else sent.key
            if writers or key is not None:
                self._acknowledge(writers, key, readers)

    def _acknowledge(
        self, writers: Iterable[int], key: FileKey | None, readers: Iterable[int]
    ) -> None:
        """Tell writers that this rank has what is in their files, and remove its own file.

        Readers acknowledge by an empty message; only the writer waits, for these messages. A
        barrier would keep all ranks until the last is in MPI again.
        """
        for rank in writers:
            if rank != self.rank:
                self.internal.Send(b"", rank, wire.ACKNOWLEDGEMENT)
        if key is not None:
            for rank in readers:
                if rank != self.rank:
                    self.internal.Recv(bytearray(), rank, wire.ACKNOWLEDGEMENT)
            self._connector.evict(key)

    def _load(
        self,
        sent: Outgoing | None,
        received: Iterable[tuple[int, Message | None]],
        *,
        last: bool,
    ) -> list[Any]:
        """Return the objects of all messages, `Failed` in place of what could not be had."""
        objs: list[Any] = []
        for rank, message in received:
            try:
                if rank == self.rank and sent is not None:
                    objs.append(self._own(sent))
                elif message is not None:
                    host = self._hosts[rank]
                    objs.append(decode(self._connector, message, rank, host, last=last))
            except Exception as caught:
                objs.append(Failed(caught, own=sent is not None and caught is sent.error))
        return objs

    def _own(self, sent: Outgoing) -> Any:
        """Return the object that this rank has sent to itself."""
        if sent.error is not None:
            raise sent.error
        n = self.rank if len(sent.messages) > 1 else 0
        encoded = sent.encoded[n]
        if encoded is not None:
            return private(encoded)
        message = sent.messages[n][0]
        return decode(self._connector, message, self.rank, self._hosts[self.rank], last=False)


def checked(objs: list[Any]) -> list[Any]:
    """Return the objects; raise this rank's own error, or the first, in place of one."""
    for obj in objs:
        if type(obj) is Failed:
            failed = [each for each in objs if type(each) is Failed]
            raise min(failed, key=lambda each: not each.own).error
    return objs
