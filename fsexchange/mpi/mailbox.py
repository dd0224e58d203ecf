"""Mailbox: messages between two ranks; no sender waits for its receiver.

A short message is sent eagerly: MPI takes it from the sender at once, and delivers it whatever the
sender does next. A longer message is sent in two parts: its start eagerly, and its rest under a
number of its own. MPI delivers the rest only while the sender is in some call of MPI. So the start
that `send` sends is a request to send, and the receiver answers with a clear to send. If that does
not come soon, the sender sends an empty rest, and a short message that replaces the long one.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
from typing import NamedTuple, cast

from mpi4py import MPI

from fsexchange.mpi import wire
from fsexchange.mpi.message import Message, Pieces, empty, joined, split

# An MPI takes messages of up to this many bytes from a sender without asking the receiver. MPICH's
# limit between processes of one host is 4096; in other MPIs this includes a header.
EAGER = 4000

# First byte, number, and bytes of the whole message; its start comes after them.
_LONG = struct.Struct("<B7xQQ")
_STARTS = (wire.REST_FOLLOWS, wire.REQUEST_TO_SEND)

# Bytes of the start of a long message. For one large array it has all but the elements.
_START = 512

_NOTHING = bytearray()

# Seconds that a sender waits for a clear to send: longer than a round trip between hosts, shorter
# than it takes to write most messages of this kind to a file.
_PATIENCE = 1e-3

# The most bytes of a replacement, which has a key, or the error for which there is none.
_REPLACEMENT_UP_TO = 1 << 16

# Messages on their way to slow receivers may have this many bytes: a small part of the memory.
_CROWD = 16 << 20


class RequestToSend(NamedTuple):
    """A message whose start was sent, and whose rest waits for a clear to send."""

    dest: int
    number: int
    rest: Message


class Mailbox:
    """The messages that one rank sends and receives.

    Short messages and starts travel on `tagged`, under the user's tags; rests on `internal`.
    """

    def __init__(self, tagged: MPI.Intracomm, internal: MPI.Intracomm) -> None:
        self.tagged = tagged
        self.internal = internal
        self._counter = itertools.count()
        last_tag = cast(int, MPI.COMM_WORLD.Get_attr(MPI.TAG_UB))
        self._numbers = (last_tag - wire.FIRST_NUMBER) // wire.TAGS_PER_NUMBER
        self._underway: list[tuple[MPI.Request, Message]] = []
        self._underway_bytes = 0
        self._look_again_at = 64
        self._inbox = bytearray(EAGER)
        # MPI writes into the memory of these, whether anyone still waits for them or not.
        self.expected: set[Incoming] = set()
        # MPICH up to 5.0 can lose a message for which a receive from any source is already posted,
        # if some ranks are on this host and some on others (ch4:ucx; mpich#7203 and #7702 are
        # alike). So these post none, and probe in the order in which they were made.
        self.from_anyone: list[Incoming] = []

    @property
    def crowded(self) -> bool:
        """Whether messages on their way take so much memory that others should go to files."""
        if self._underway_bytes >= _CROWD:
            self._forget_delivered()
        return self._underway_bytes >= _CROWD

    def post(self, message: Pieces, dest: int, tag: int) -> list[MPI.Request]:
        """Send a message without waiting; a copy of it is kept until it is delivered."""
        whole = joined(message)
        if len(whole) <= EAGER:
            return [self._isend(self.tagged, whole, dest, tag)]
        number = self._number()
        rest = self._send_start(wire.REST_FOLLOWS, number, [whole], dest, tag)
        return [self._isend(self.internal, rest, dest, number)]

    def request_to_send(self, message: Pieces, dest: int, tag: int) -> RequestToSend | None:
        """Send the start of a message, without a copy; send a short one whole, and return None."""
        if len(message) == 1 and len(message[0]) <= EAGER:
            self._isend(self.tagged, message[0], dest, tag)
            return None
        number = self._number()
        rest = self._send_start(wire.REQUEST_TO_SEND, number, message, dest, tag)
        return RequestToSend(dest, number, rest)

    def is_clear_to_send(self, request: RequestToSend) -> bool:
        """Return whether the clear to send comes soon."""
        clear = self.internal.Irecv(_NOTHING, request.dest, request.number + wire.CLEAR_TO_SEND)
        deadline = time.perf_counter() + _PATIENCE
        while not clear.Test():
            if time.perf_counter() > deadline:
                clear.Free()  # MPI still receives it when it comes, which changes nothing
                return False
            os.sched_yield()
        return True

    def send_rest(self, request: RequestToSend) -> None:
        """Send the rest of a message, and wait until MPI has taken it."""
        self.internal.Send(request.rest, request.dest, request.number)

    def replace(self, request: RequestToSend, message: Pieces) -> None:
        """Send another message in place of the announced one, without waiting."""
        self._isend(self.internal, _NOTHING, request.dest, request.number)
        tag = request.number + wire.REPLACEMENT
        self._isend(self.internal, joined(message), request.dest, tag)

    def receive(self, source: int, tag: int, status: MPI.Status) -> Message | None:
        """Wait for a message and return it; None from PROC_NULL."""
        if source == MPI.ANY_SOURCE:
            self.tagged.Mprobe(source, tag, status).Recv(self._inbox)
        else:
            self.tagged.Recv(self._inbox, source, tag, status)
        if status.source == MPI.PROC_NULL:
            return None
        message = self._inbox[: status.Get_count()]
        if message[0] not in _STARTS:
            return message
        long = _LongMessage(self.internal, message, status.source)
        self.clear_to_send(long)
        long.has_come(wait=True)
        return long.message

    def drain(self) -> list[Message]:
        """Return the messages that nobody has received, once no rank sends any more."""
        for incoming in self.expected:
            incoming.give_up()
        self.expected.clear()
        found = []
        while self.tagged.Iprobe():
            message = self.receive(MPI.ANY_SOURCE, MPI.ANY_TAG, MPI.Status())
            if message is not None:
                found.append(message)
        return found

    def clear_to_send(self, long: _LongMessage) -> None:
        """Send the clear to send, if the sender has asked for it."""
        if long.requested:
            self._isend(self.internal, _NOTHING, long.source, long.number + wire.CLEAR_TO_SEND)

    def _send_start(
        self, first_byte: int, number: int, message: Pieces, dest: int, tag: int
    ) -> Message:
        """Send the start of a message; return its rest."""
        start, rest = split(message, _START)
        head = _LONG.pack(first_byte, number, len(start) + len(rest))
        self._isend(self.tagged, head + start, dest, tag)
        return rest

    def _isend(self, comm: MPI.Intracomm, message: Message, dest: int, tag: int) -> MPI.Request:
        request = comm.Isend(message, dest, tag)
        if not request.Test():
            self._underway.append((request, message))
            self._underway_bytes += len(message)
            if len(self._underway) >= self._look_again_at:
                self._forget_delivered()
        return request

    def _forget_delivered(self) -> None:
        self._underway = [pair for pair in self._underway if not pair[0].Test()]
        self._underway_bytes = sum(len(message) for _, message in self._underway)
        self._look_again_at = 2 * len(self._underway) + 64

    def _number(self) -> int:
        return wire.FIRST_NUMBER + wire.TAGS_PER_NUMBER * (next(self._counter) % self._numbers)


class _LongMessage:
    """A message whose start has arrived; receives its rest, or the message that replaces it."""

    def __init__(self, internal: MPI.Intracomm, received: Message, source: int) -> None:
        self.source = source
        first_byte, self.number, nbytes = _LONG.unpack_from(received)
        self.requested = first_byte == wire.REQUEST_TO_SEND
        start = memoryview(received)[_LONG.size :]
        self.message = empty(nbytes)
        self.message[: len(start)] = start
        self._internal = internal
        self._replaced = False
        self.request = internal.Irecv(self.message[len(start) :], source, self.number)

    def has_come(self, *, wait: bool) -> bool:
        """Return whether the whole message has arrived; with `wait`, wait until it has."""
        status = MPI.Status()
        if not _is_done(self.request, status, wait=wait):
            return False
        nbytes = status.Get_count()
        if self._replaced:
            self.message = self.message[:nbytes]
        elif nbytes == 0:
            self._replaced = True
            self.message = empty(_REPLACEMENT_UP_TO)
            tag = self.number + wire.REPLACEMENT
            self.request = self._internal.Irecv(self.message, self.source, tag)
            return self.has_come(wait=wait)
        return True


class Incoming:
    """A message that is received while this rank does something else."""

    def __init__(self, mailbox: Mailbox, source: int, tag: int) -> None:
        self._mailbox = mailbox
        self._buffer = empty(EAGER)
        self._tag = tag
        self._request = None
        if source == MPI.ANY_SOURCE:
            mailbox.from_anyone.append(self)
        else:
            self._request = mailbox.tagged.Irecv(self._buffer, source, tag)
        self._long: _LongMessage | None = None
        self._cleared = False
        self.status = MPI.Status()
        mailbox.expected.add(self)

    def has_come(self, *, wait: bool) -> bool:
        """Return whether the whole message has arrived; with `wait`, wait until it has."""
        if self._long is None:
            if not self._has_started(wait=wait):
                return False
            self._buffer = self._buffer[: self.status.Get_count()]
            if len(self._buffer) == 0 or self._buffer[0] not in _STARTS:
                self._mailbox.expected.discard(self)
                return True
            self._long = _LongMessage(self._mailbox.internal, self._buffer, self.status.source)
        if wait and not self._cleared:
            # Only with `wait`: otherwise the sender would wait until this rank looks again.
            self._cleared = True
            self._mailbox.clear_to_send(self._long)
        if not self._long.has_come(wait=wait):
            return False
        self._buffer = self._long.message
        self._mailbox.expected.discard(self)
        return True

    def _has_started(self, *, wait: bool) -> bool:
        if self._request is not None:
            return _is_done(self._request, self.status, wait=wait)
        waiting = self._mailbox.from_anyone
        while self in waiting:
            for incoming in tuple(waiting):
                found = self._mailbox.tagged.Improbe(MPI.ANY_SOURCE, incoming._tag, incoming.status)
                if found is not None:
                    found.Recv(incoming._buffer)
                    waiting.remove(incoming)
            if not wait:
                break
        return self not in waiting

    def give_up(self) -> None:
        """Cancel the receive, so that MPI no longer writes into the memory."""
        request = self._request if self._long is None else self._long.request
        if request is not None:
            request.Cancel()
            request.Wait()

    @property
    def message(self) -> Message | None:
        """The message, once it has arrived; None from PROC_NULL."""
        return self._buffer if len(self._buffer) else None


def _is_done(request: MPI.Request, status: MPI.Status, *, wait: bool) -> bool:
    if not wait:
        return request.Test(status)
    request.Wait(status)
    return True
