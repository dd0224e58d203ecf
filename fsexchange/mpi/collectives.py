"""Collectives: verbs that all ranks call together, with objects in messages or in files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mpi4py import MPI

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.keys import FileKey
from fsexchange.mpi import packets
from fsexchange.mpi.message import (
    INTERRUPTED,
    STAND_BY,
    Message,
    Outgoing,
    Pieces,
    decode,
    is_in_file,
    is_stand_by,
    own_file,
    spill,
)
from fsexchange.mpi.wire import ACKNOWLEDGEMENT


class Collectives:
    """The collective verbs. Each takes what a rank sends, and returns the objects that it receives.

    A file that a verb writes is removed before the verb returns on the rank that wrote it. The
    error of a rank is raised there, and as `RemoteError` by every rank that waits for its message.
    """

    def __init__(
        self,
        internal: MPI.Intracomm,
        connector: FileConnector,
        hosts: Sequence[str],
        inline_limit: int,
    ) -> None:
        self._internal = internal
        self._connector = connector
        self._hosts = hosts
        self._inline_limit = inline_limit
        self.rank, self.size = internal.rank, internal.size

    def bcast(self, sent: Outgoing | None, root: int) -> Any:
        """Return the root's object; `sent` is None on the other ranks."""
        sent, message = self._from_root(packets.bcast, sent, root)
        return self._receive(sent, [(root, message)], range(self.size))[0]

    def scatter(self, sent: Outgoing | None, root: int) -> Any:
        """Return the root's object for this rank; `sent` is None on the other ranks."""
        sent, message = self._from_root(packets.scatter, sent, root)
        return self._receive(sent, [(root, message)], sent.readers if sent else ())[0]

    def gather(self, sent: Outgoing, root: int) -> list[Any] | None:
        """Return the objects of all ranks on the root, None on the others."""
        sent = spill(self._connector, sent, self._inline_limit)
        messages = packets.gather(self._internal, sent.messages[0], root)
        objs, error = None, sent.error
        try:
            objs = None if messages is None else self._load(enumerate(messages), last=True)
        except Exception as caught:
            error = caught if error is None else error
        if error is not None:
            raise error
        return objs

    def allgather(self, sent: Outgoing) -> list[Any]:
        """Return the objects of all ranks."""
        # A message is copied to every rank, a file only to every host: the limit is for all
        # objects together.
        sent = spill(self._connector, sent, self._inline_limit // self.size)
        messages = packets.allgather(self._internal, sent.messages[0])
        return self._receive(sent, enumerate(messages), range(self.size))

    def alltoall(self, sent: Outgoing) -> list[Any]:
        """Return the objects of all ranks for this one."""
        sent = spill(self._connector, sent, self._inline_limit)
        messages = packets.alltoall(self._internal, sent.messages)
        return self._receive(sent, enumerate(messages), sent.readers)

    def take(self, key: FileKey, writer: int) -> Any:
        """Return an object whose key all ranks have; then its writer removes it."""
        sent = Outgoing([], key) if self.rank == writer else None
        return self._receive(sent, [(writer, own_file(key))], range(self.size))[0]

    def _from_root(
        self,
        move: Callable[[MPI.Intracomm, Sequence[Pieces] | None, int], Message],
        sent: Outgoing | None,
        root: int,
    ) -> tuple[Outgoing | None, Message]:
        """Return what the root sent, perhaps in a file, and the message that this rank received."""
        comm = self._internal
        if sent is not None and sent.longest > self._inline_limit:
            everyone = len(sent.messages)
            move(comm, [STAND_BY] * everyone, root)
            try:
                sent = spill(self._connector, sent, self._inline_limit)
            except BaseException:  # Ctrl-C: the others wait for the message that was promised
                packets.wake(comm)
                move(comm, [INTERRUPTED] * everyone, root)
                raise
            packets.wake(comm)
        message = move(comm, None if sent is None else sent.messages, root)
        if is_stand_by(message):
            packets.doze(comm, root)
            message = move(comm, None, root)
        return sent, message

    def _receive(
        self,
        sent: Outgoing | None,
        received: Iterable[tuple[int, Message]],
        readers: Iterable[int],
    ) -> list[Any]:
        """Return the objects of messages, and remove this rank's file once its readers have it.

        Readers acknowledge by an empty message; only the writer waits, for these messages. A
        barrier would keep all ranks until the last is in MPI again.
        """
        received = list(received)
        try:
            if sent is not None and sent.error is not None:
                raise sent.error
            return self._load(received, last=False)
        finally:
            for rank, message in received:
                if rank != self.rank and is_in_file(message):
                    self._internal.Send(b"", rank, ACKNOWLEDGEMENT)
            if sent is not None and sent.key is not None:
                for rank in readers:
                    if rank != self.rank:
                        self._internal.Recv(bytearray(), rank, ACKNOWLEDGEMENT)
                self._connector.evict(sent.key)

    def _load(self, received: Iterable[tuple[int, Message]], *, last: bool) -> list[Any]:
        """Return the objects of all messages; raise the first error after the last message."""
        objs = []
        error: Exception | None = None
        for rank, message in received:
            try:
                objs.append(decode(self._connector, message, rank, self._hosts[rank], last=last))
            except Exception as caught:
                error = caught if error is None else error
        if error is not None:
            raise error
        return objs
