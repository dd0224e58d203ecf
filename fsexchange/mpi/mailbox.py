"""Messages between two ranks, of which no sender ever waits for its receiver.

A short message goes as it is: MPI takes it from the sender at once, and delivers it whatever the
sender does next. A longer one is announced by a short one with its begin, and the rest follows
under a number of its own; MPI delivers that only while its sender is in some call, so `send` first
asks whether the receiver is there to take it. If not, nothing follows under the number, and another
message in the place of the whole under a second number.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
from typing import NamedTuple, cast

from mpi4py import MPI

from fsexchange.mpi.message import KINDS, Message, Pieces, empty, joined, split

# Bytes that an MPI takes from a sender without asking the receiver: less than MPICH's limit between
# processes of one host, 4096, which others count with a header of theirs.
EAGER = 4000

# Announcements: the message follows by itself, or once its receiver has said that it is ready.
_FOLLOWS, _OFFERED = 9, 10
assert not {_FOLLOWS, _OFFERED} & set(KINDS)
_ANNOUNCEMENT = struct.Struct("<B7xQQ")

# Bytes that a message begins with in its announcement: of one large array all but the array.
_BEGIN = 512

# Tags on `control` are numbers from here on; those below are others'.
_FIRST_NUMBER = 16

# For the rest of a message; from there on for its receiver's answer, and for what replaces it.
_ANSWER, _REPLACEMENT, _NUMBERS_EACH = 1, 2, 3

_NOTHING = bytearray()

# Seconds that a sender stays for a receiver that is on its way: more than a round trip between
# hosts, less than writing most of what is sent so to a file.
_PATIENCE = 1e-3

# Bytes that a message in the place of what was offered may take: a key, or why there is none.
_REPLACEMENT_UP_TO = 1 << 16

# Bytes on their way, for receivers that lag behind, that are still a small part of the memory.
_CROWD = 16 << 20


class Offer(NamedTuple):
    """What was announced by its sender, and waits for its receiver."""

    dest: int
    number: int
    rest: Message


class Mailbox:
    """One rank's messages on `comm`; `control` is for what they need besides."""

    def __init__(self, comm: MPI.Intracomm, control: MPI.Intracomm) -> None:
        self.comm = comm
        self.control = control
        self._counter = itertools.count()
        last_tag = cast(int, MPI.COMM_WORLD.Get_attr(MPI.TAG_UB))
        self._numbers = (last_tag - _FIRST_NUMBER) // _NUMBERS_EACH
        self._underway: list[tuple[MPI.Request, Message]] = []
        self._underway_bytes = 0
        self._look_again_at = 64
        self._inbox = bytearray(EAGER)
        # MPI writes into their memory, whether their receiver still wants them or not.
        self.expected: set[Incoming] = set()
        # MPICH up to 5.0 loses messages to a receive from anyone that is posted where ranks are on
        # its host and on others (ch4:ucx; mpich#7203, #7702 are of the kind): such ones look for
        # theirs, the first first.
        self.from_anyone: list[Incoming] = []

    @property
    def crowded(self) -> bool:
        """Whether so much is on its way that more must not be kept in memory."""
        if self._underway_bytes >= _CROWD:
            self._forget_delivered()
        return self._underway_bytes >= _CROWD

    def post(self, message: Pieces, dest: int, tag: int) -> list[MPI.Request]:
        """Send without waiting; a copy of the message is kept until it is delivered."""
        whole = joined(message)
        if len(whole) <= EAGER:
            return [self._isend(self.comm, whole, dest, tag)]
        number = self._number()
        rest = self._announce(_FOLLOWS, number, [whole], dest, tag)
        return [self._isend(self.control, rest, dest, number)]

    def offer(self, message: Pieces, dest: int, tag: int) -> Offer | None:
        """Announce a message, not copied; None for a short one, which is sent at once."""
        if len(message) == 1 and len(message[0]) <= EAGER:
            self._isend(self.comm, message[0], dest, tag)
            return None
        number = self._number()
        return Offer(dest, number, self._announce(_OFFERED, number, message, dest, tag))

    def is_awaited(self, offer: Offer) -> bool:
        """Tell whether the receiver of what was offered is there, within a moment."""
        ready = self.control.Irecv(_NOTHING, offer.dest, offer.number + _ANSWER)
        deadline = time.perf_counter() + _PATIENCE
        while not ready.Test():
            if time.perf_counter() > deadline:
                ready.Free()  # it will be received all the same, and says nothing new
                return False
            os.sched_yield()
        return True

    def follow(self, offer: Offer) -> None:
        """Send what was offered, and wait until it is taken."""
        self.control.Send(offer.rest, offer.dest, offer.number)

    def replace(self, offer: Offer, message: Pieces) -> None:
        """Send another message in the place of what was offered; without waiting."""
        self._isend(self.control, _NOTHING, offer.dest, offer.number)
        self._isend(self.control, joined(message), offer.dest, offer.number + _REPLACEMENT)

    def receive(self, source: int, tag: int, status: MPI.Status) -> Message | None:
        """Wait for a message and return it; None from PROC_NULL."""
        if source == MPI.ANY_SOURCE:
            self.comm.Mprobe(source, tag, status).Recv(self._inbox)
        else:
            self.comm.Recv(self._inbox, source, tag, status)
        if status.source == MPI.PROC_NULL:
            return None
        message = self._inbox[: status.Get_count()]
        if message[0] not in (_FOLLOWS, _OFFERED):
            return message
        announced = _Announced(self.control, message, status.source)
        self.be_ready(announced)
        announced.has_come(wait=True)
        return announced.message

    def drain(self) -> list[Message]:
        """Return what nobody has received, once all ranks have ended their use."""
        for incoming in self.expected:
            incoming.give_up()
        self.expected.clear()
        found = []
        while self.comm.Iprobe():
            message = self.receive(MPI.ANY_SOURCE, MPI.ANY_TAG, MPI.Status())
            if message is not None:
                found.append(message)
        return found

    def be_ready(self, announced: _Announced) -> None:
        """Tell a sender that asks for it that its receiver waits, until it has all."""
        if announced.asks:
            self._isend(self.control, _NOTHING, announced.source, announced.number + _ANSWER)

    def _announce(self, kind: int, number: int, message: Pieces, dest: int, tag: int) -> Message:
        """Send the begin of a message; return its rest."""
        begin, rest = split(message, _BEGIN)
        head = _ANNOUNCEMENT.pack(kind, number, len(begin) + len(rest))
        self._isend(self.comm, head + begin, dest, tag)
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
        """Return the first of a message's numbers: tags on `control`."""
        return _FIRST_NUMBER + _NUMBERS_EACH * (next(self._counter) % self._numbers)


class _Announced:
    """A message whose rest is received, or what its sender sends in its place."""

    def __init__(self, control: MPI.Intracomm, announcement: Message, source: int) -> None:
        self.source = source
        kind, self.number, nbytes = _ANNOUNCEMENT.unpack_from(announcement)
        self.asks = kind == _OFFERED
        begin = memoryview(announcement)[_ANNOUNCEMENT.size :]
        self.message = empty(nbytes)
        self.message[: len(begin)] = begin
        self._control = control
        self._replaced = False
        self.request = control.Irecv(self.message[len(begin) :], source, self.number)

    def has_come(self, *, wait: bool) -> bool:
        """Tell whether it is all there, or wait until it is."""
        status = MPI.Status()
        if not _is_done(self.request, status, wait=wait):
            return False
        nbytes = status.Get_count()
        if self._replaced:
            self.message = self.message[:nbytes]
        elif nbytes == 0:
            self._replaced = True
            self.message = empty(_REPLACEMENT_UP_TO)
            self.request = self._control.Irecv(
                self.message, self.source, self.number + _REPLACEMENT
            )
            return self.has_come(wait=wait)
        return True


class Incoming:
    """A message that one rank is to send, received while its receiver does something else."""

    def __init__(self, mailbox: Mailbox, source: int, tag: int) -> None:
        self._mailbox = mailbox
        self._buffer = empty(EAGER)
        self._tag = tag
        self._request = None
        if source == MPI.ANY_SOURCE:
            mailbox.from_anyone.append(self)
        else:
            self._request = mailbox.comm.Irecv(self._buffer, source, tag)
        self._announced: _Announced | None = None
        self._ready = False
        self.status = MPI.Status()
        mailbox.expected.add(self)

    def has_come(self, *, wait: bool) -> bool:
        """Tell whether it is all there, or wait until it is."""
        if self._announced is None:
            if not self._has_begun(wait=wait):
                return False
            self._buffer = self._buffer[: self.status.Get_count()]
            if len(self._buffer) == 0 or self._buffer[0] not in (_FOLLOWS, _OFFERED):
                self._mailbox.expected.discard(self)
                return True
            self._announced = _Announced(self._mailbox.control, self._buffer, self.status.source)
        if wait and not self._ready:
            # Not by who only looks: the sender would stay until that looks again.
            self._ready = True
            self._mailbox.be_ready(self._announced)
        if not self._announced.has_come(wait=wait):
            return False
        self._buffer = self._announced.message
        self._mailbox.expected.discard(self)
        return True

    def _has_begun(self, *, wait: bool) -> bool:
        if self._request is not None:
            return _is_done(self._request, self.status, wait=wait)
        waiting = self._mailbox.from_anyone
        while self in waiting:
            for incoming in tuple(waiting):
                found = self._mailbox.comm.Improbe(MPI.ANY_SOURCE, incoming._tag, incoming.status)
                if found is not None:
                    found.Recv(incoming._buffer)
                    waiting.remove(incoming)
            if not wait:
                break
        return self not in waiting

    def give_up(self) -> None:
        """Take the memory back from MPI."""
        request = self._request if self._announced is None else self._announced.request
        if request is not None:
            request.Cancel()
            request.Wait()

    @property
    def message(self) -> Message | None:
        """The message, once it has come; None from PROC_NULL."""
        return self._buffer if len(self._buffer) else None


def _is_done(request: MPI.Request, status: MPI.Status, *, wait: bool) -> bool:
    if not wait:
        return request.Test(status)
    request.Wait(status)
    return True
