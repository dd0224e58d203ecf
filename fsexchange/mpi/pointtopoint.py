"""PointToPoint: objects that one rank sends to another, in messages or through files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mpi4py import MPI

from fsexchange.connector.connector import FileConnector
from fsexchange.mpi.mailbox import EAGER, Incoming, Mailbox
from fsexchange.mpi.message import (
    HEAD_SIZE,
    INTERRUPTED,
    Message,
    Outgoing,
    Pieces,
    decode,
    own_file_key,
    spill,
)
from fsexchange.mpi.request import Request

_T = TypeVar("_T")


class PointToPoint:
    """The verbs between two ranks; no sender waits for its receiver.

    The receiver of a file removes it. The error of a sender is raised there, and as `RemoteError`
    by the receiver.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        connector: FileConnector,
        hosts: Sequence[str],
        inline_limit: int,
    ) -> None:
        self._mailbox = mailbox
        self._connector = connector
        self._hosts = hosts
        self._inline_limit = inline_limit

    def send(self, sent: Outgoing, dest: int, tag: int) -> None:
        """Send one message; a long one without a copy if the receiver is there, else by a file."""
        mailbox = self._mailbox
        sent = self._spilled(sent, 8 * self._inline_limit)
        if sent.error is not None:
            mailbox.post(sent.messages[0], dest, tag)
            raise sent.error
        request = self._hand_over(mailbox.request_to_send, sent, dest, tag)
        if request is None:
            return
        clear = False
        try:
            clear = mailbox.is_clear_to_send(request)
            if not clear:
                sent = spill(self._connector, sent, 0)
        except BaseException:  # Ctrl-C: the receiver waits for the rest that was announced
            sent = Outgoing([INTERRUPTED])
            raise
        finally:
            if clear:
                mailbox.send_rest(request)
            else:
                mailbox.replace(request, sent.messages[0])
        if sent.error is not None:
            raise sent.error

    def isend(self, sent: Outgoing, dest: int, tag: int) -> Request:
        """Send one message, as a copy or in a file; the request is done when it is delivered."""
        sent = self._spilled(sent, self._inline_limit)
        requests = self._hand_over(self._mailbox.post, sent, dest, tag)
        if sent.error is not None:
            raise sent.error
        return Request(requests)

    def recv(self, source: int, tag: int, status: MPI.Status | None) -> Any:
        """Wait for an object, and return it; None from PROC_NULL."""
        status = MPI.Status() if status is None else status
        message = self._mailbox.receive(source, tag, status)
        return None if message is None else self._load(message, status.source)

    def irecv(self, source: int, tag: int) -> Request:
        """Return a request for an object."""
        return Request(Incoming(self._mailbox, source, tag), self._load)

    def sendrecv(
        self,
        sent: Outgoing,
        dest: int,
        sendtag: int,
        source: int,
        recvtag: int,
        status: MPI.Status | None,
    ) -> Any:
        """Send one message, and wait for an object."""
        sent = self._spilled(sent, self._inline_limit)
        requests = self._hand_over(self._mailbox.post, sent, dest, sendtag)
        try:
            obj = self.recv(source, recvtag, status)
        except Exception:
            if sent.error is None:
                raise
        if sent.error is not None:
            raise sent.error
        MPI.Request.Waitall(requests)  # or they might wait for this rank's next call of MPI
        return obj

    def drain(self) -> None:
        """Remove the files of messages that nobody has received, once no rank sends any more."""
        for message in self._mailbox.drain():
            key = own_file_key(message)
            if key is not None:
                self._connector.evict(key)  # no one else will, and the store may be kept

    def _spilled(self, sent: Outgoing, inline_limit: int) -> Outgoing:
        if self._mailbox.crowded:
            inline_limit = min(inline_limit, EAGER - HEAD_SIZE)
        return spill(self._connector, sent, inline_limit)

    def _hand_over(
        self, post: Callable[[Pieces, int, int], _T], sent: Outgoing, dest: int, tag: int
    ) -> _T:
        """Give a message to the mailbox; remove its file if MPI refuses the message or its tag."""
        try:
            return post(sent.messages[0], dest, tag)
        except BaseException:
            if sent.key is not None:
                self._connector.evict(sent.key)
            raise

    def _load(self, message: Message, source: int) -> Any:
        return decode(self._connector, message, source, self._hosts[source], last=True)
