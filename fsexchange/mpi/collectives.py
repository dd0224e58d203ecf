"""Collectives: verbs that all ranks call together, with objects in packets, messages or files.

Each verb begins with packets of one length. If all of them hold whole objects, that is all;
else `Packets` moves the rests. A message that is longer than `inline_limit` moves to a file first.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mpi4py import MPI

from fsexchange.errors import MissingObjectError
from fsexchange.mpi import wire
from fsexchange.mpi.message import (
    CALL_SIZE,
    Message,
    Pieces,
    a_call,
    decode,
    failure,
    is_in_file,
    is_stand_by,
    private,
    split,
    stand_by,
)
from fsexchange.mpi.outgoing import Outgoing, small_or, small_or_each, spill
from fsexchange.mpi.packets import PACKET_TO_ALL, Packets
from fsexchange.serialize import deserialize

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector
    from fsexchange.connector.keys import FileKey
    from fsexchange.mpi.codec import Codec

#: What a rank sends in place of an object, see `small_or`.
Make = Callable[[Any], Any]

_loads = pickle.loads


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
        self._encode = codec.encode
        self._connector = connector
        self._hosts = hosts
        self._inline_limit = inline_limit
        self._packets = Packets(internal, hosts)
        self._packet = self._packets.size
        self._calls = 0
        self.rank, self.size = internal.rank, internal.size
        self._starts = range(0, self._packet * self.size, self._packet)
        self._bodies = [at + CALL_SIZE for at in self._starts]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self._calls += 1
        self.internal.Barrier()

    def bcast(self, obj: Any, root: int, make: Make | None = None) -> Any:
        """Return the root's object; that of the other ranks is ignored."""
        call = self._call(wire.BCAST, root)
        if self.rank != root:
            packet = bytearray(PACKET_TO_ALL)
            self.internal.Bcast(packet, root)
            if packet[:CALL_SIZE] == call:
                return _loads(memoryview(packet)[CALL_SIZE:])
            return self._from_root(self._packets.bcast_from, call, root, packet)
        sent = small_or(self._encode, call, PACKET_TO_ALL, obj, make)
        if isinstance(sent, bytes):
            self.internal.Bcast(sent.ljust(PACKET_TO_ALL, b"\0"), root)
            return _loads(memoryview(sent)[CALL_SIZE:])

        def move(messages: Sequence[Pieces]) -> None:
            self._packets.bcast(messages[0], root)

        return self._to_all(move, call, sent, range(self.size))

    def scatter(self, objs: Any, root: int, make: Make | None = None) -> Any:
        """Return the root's object for this rank; those of the other ranks are ignored."""
        call = self._call(wire.SCATTER, root)
        if self.rank != root:
            packet = bytearray(self._packet)
            self.internal.Scatter(None, packet, root)
            if packet[:CALL_SIZE] == call:
                return _loads(memoryview(packet)[CALL_SIZE:])
            return self._from_root(self._packets.scatter_from, call, root, packet)
        sent = small_or_each(self._encode, call, self._packet, objs, self.size, make)
        if isinstance(sent, list):
            self.internal.Scatter(self._padded(sent), MPI.IN_PLACE, root)
            return _loads(memoryview(sent[root])[CALL_SIZE:])

        def move(messages: Sequence[Pieces]) -> None:
            self._packets.scatter(messages, root)

        return self._to_all(move, call, sent, None)

    def gather(self, obj: Any, root: int, make: Make | None = None) -> list[Any] | None:
        """Return the objects of all ranks on the root, None on the others."""
        objs = self.gather_some(wire.GATHER, obj, root, make)
        return None if objs is None else checked(objs)

    def gather_some(
        self, verb: int, obj: Any, root: int, make: Make | None = None
    ) -> list[Any] | None:
        """Return as `gather` does, `Failed` in place of what could not be had."""
        call = self._call(verb, root)
        start, rest, sent = self._start(call, obj, make, self._inline_limit)
        if self.rank != root:
            self.internal.Gather(start, None, root)
            if rest:
                self._packets.send_rest(rest, root)
            if sent is not None and sent.error is not None:
                raise sent.error
            return None
        packets = bytearray(self._packet * self.size)
        self.internal.Gather(start, packets, root)
        small = self._small(call, packets)
        if small is not None:
            return small
        return self._load(sent, enumerate(self._packets.gathered(call, packets)), last=True)

    def allgather(self, obj: Any, make: Make | None = None) -> list[Any]:
        """Return the objects of all ranks."""
        return checked(self.allgather_some(wire.ALLGATHER, obj, make))

    def allgather_some(self, verb: int, obj: Any, make: Make | None = None) -> list[Any]:
        """Return as `allgather` does, `Failed` in place of what could not be had."""
        call = self._call(verb, 0)
        # A message is copied to every rank, a file only to every host: the limit is for all
        # objects together.
        start, rest, sent = self._start(call, obj, make, self._inline_limit // self.size)
        packets = bytearray(self._packet * self.size)
        self.internal.Allgather(start, packets)
        small = self._small(call, packets)
        if small is not None:
            return small
        messages = self._packets.allgathered(call, packets, rest)
        return self._receive(sent, enumerate(messages), range(self.size))

    def alltoall(self, objs: Any, make: Make | None = None) -> list[Any]:
        """Return the objects of all ranks for this one."""
        call = self._call(wire.ALLTOALL, 0)
        sent = small_or_each(self._encode, call, self._packet, objs, self.size, make)
        if isinstance(sent, list):
            received = bytearray(self._packet * self.size)
            self.internal.Alltoall(self._padded(sent), received)
            small = self._small(call, received)
            if small is not None:
                return checked(small)
            messages = self._packets.gathered(call, received)
            return checked(self._receive(None, enumerate(messages), ()))
        sent = spill(self._connector, call, sent, self._inline_limit)
        messages = self._packets.alltoall(call, sent.messages)
        return checked(self._receive(sent, enumerate(messages), sent.readers))

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

    def _start(
        self, call: bytes, obj: Any, make: Make | None, inline_limit: int
    ) -> tuple[bytes, Message, Outgoing | None]:
        """Return the packet and the rest of a message, and what is sent unless it is small."""
        size = self._packet
        sent = small_or(self._encode, call, size, obj, make)
        if isinstance(sent, bytes):
            return sent.ljust(size, b"\0"), b"", None
        sent = spill(self._connector, call, sent, inline_limit)
        start, rest = split(sent.messages[0], size)
        return start.ljust(size, b"\0"), rest, sent

    def _padded(self, starts: Iterable[bytes]) -> bytes:
        return b"".join([start.ljust(self._packet, b"\0") for start in starts])

    def _small(self, call: bytes, packets: bytearray) -> list[Any] | None:
        """Return the objects of the packets of all ranks, None if one holds no whole object."""
        for at in self._starts:
            if packets[at : at + CALL_SIZE] != call:
                return None
        view = memoryview(packets)
        try:
            return [_loads(view[at:]) for at in self._bodies]
        except Exception:  # raised by an object's own class: find out which
            return self._load(None, enumerate(view[at:] for at in self._starts), last=False)

    def _to_all(
        self,
        move: Callable[[Sequence[Pieces]], None],
        call: bytes,
        sent: Outgoing,
        readers: Iterable[int] | None,
    ) -> Any:
        """Send what the root has for the others, perhaps in a file, and return its own object."""
        if sent.longest > self._inline_limit:
            everyone = len(sent.messages)
            move([stand_by(call)] * everyone)
            try:
                sent = spill(self._connector, call, sent, self._inline_limit)
            except BaseException:  # Ctrl-C: the others wait for the message that was promised
                self._packets.wake()
                interrupted = failure(call, InterruptedError("the sender was interrupted"))
                move([interrupted] * everyone)
                raise
            self._packets.wake()
        move(sent.messages)
        own = [(self.rank, sent.messages[0][0])]
        return checked(self._receive(sent, own, sent.readers if readers is None else readers))[0]

    def _from_root(
        self,
        move: Callable[[bytes, int, Message | None], Message],
        call: bytes,
        root: int,
        packet: Message,
    ) -> Any:
        """Return the object that the root sent; `packet` is the start of its first message."""
        message = move(call, root, packet)
        if is_stand_by(message):
            self._packets.doze(root)
            message = move(call, root, None)
        return checked(self._receive(None, [(root, message)], ()))[0]

    def _receive(
        self,
        sent: Outgoing | None,
        received: Iterable[tuple[int, Message]],
        readers: Iterable[int],
    ) -> list[Any]:
        """Return the objects of messages, and remove this rank's file once its readers have it."""
        received = list(received)
        try:
            return self._load(sent, received, last=False)
        finally:
            writers = [rank for rank, message in received if is_in_file(message)]
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
        received: Iterable[tuple[int, Message]],
        *,
        last: bool,
    ) -> list[Any]:
        """Return the objects of all messages, `Failed` in place of what could not be had.

        This rank's own is made of what it sent, if that was not small.
        """
        objs: list[Any] = []
        for rank, message in received:
            try:
                if rank == self.rank and sent is not None:
                    objs.append(self._own(sent, last=last))
                else:
                    host = self._hosts[rank]
                    objs.append(decode(self._connector, message, rank, host, last=last))
            except Exception as error:
                objs.append(Failed(error, own=sent is not None and sent.error is error))
        return objs

    def _own(self, sent: Outgoing, *, last: bool) -> Any:
        """Return the object that this rank has sent to itself."""
        if sent.error is not None:
            raise sent.error
        n = self.rank if len(sent.messages) > 1 else 0
        encoded = sent.encoded[n]
        if encoded is not None:
            return private(encoded)
        message = sent.messages[n][0]
        return decode(self._connector, message, self.rank, self._hosts[self.rank], last=last)


def checked(objs: list[Any]) -> list[Any]:
    """Return the objects; raise this rank's own error, or the first, in place of one."""
    for obj in objs:
        if type(obj) is Failed:
            failed = [each for each in objs if type(each) is Failed]
            raise min(failed, key=lambda each: not each.own).error
    return objs
