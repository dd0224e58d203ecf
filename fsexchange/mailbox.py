"""Messages between two ranks, of which no sender ever waits for its receiver.

A short message goes as it is: MPI takes it from the sender at once, and delivers it whatever the
sender does next. A longer one is announced by a short one, and follows under a number of its own;
MPI delivers it only while its sender is in some call, so `send` first asks whether the receiver is
there to take it.
"""

from __future__ import annotations

import itertools
import os
import struct
import time
from typing import cast

from mpi4py import MPI

from fsexchange.message import KINDS, Message
from fsexchange.packets import empty

# Bytes that an MPI takes from a sender without asking the receiver: less than MPICH's limit between
# processes of one host, 4096, which others count with a header of theirs.
EAGER = 4000

# Announcements: the message follows by itself, or once its receiver has said that it is ready.
_FOLLOWS, _OFFERED = 9, 10
assert not {_FOLLOWS, _OFFERED} & set(KINDS)
_ANNOUNCEMENT = struct.Struct("<B7xQQ")

# Tags on `control` are numbers from here on; those below are others'.
_FIRST_NUMBER = 16

_NOTHING = bytearray()

# Seconds that a sender stays for a receiver that is on its way: more than a round trip between
# hosts, less than writing most of what is sent so to a file.
_PATIENCE = 1e-3

# Bytes that a failure to write it to a file may take in the place of what was offered.
_FAILURE_UP_TO = 1 << 16

# Bytes on their way, for receivers that lag behind, that are still a small part of the memory.
_CROWD = 16 << 20


class Mailbox:
    """One rank's messages on `comm`; `control` is for what they need besides."""

    def __init__(self, comm: MPI.Intracomm, control: MPI.Intracomm) -> None:
        self.comm = comm
        self.control = control
        self._counter = itertools.count()
        last_tag = cast(int, MPI.COMM_WORLD.Get_attr(MPI.TAG_UB))
        self._numbers = (last_tag - _FIRST_NUMBER) // 2
        self._underway: list[tuple[MPI.Request, Message]] = []
        self._underway_bytes = 0
        self._look_again_at = 64
        # MPI writes into their memory, whether their receiver still wants them or not.
        self.expected: set[Incoming] = set()

    @property
    def crowded(self) -> bool:
        """Whether so much is on its way that more must not be kept in memory."""
        if self._underway_bytes >= _CROWD:
            self._forget_delivered()
        return self._underway_bytes >= _CROWD

    def post(self, message: Message, dest: int, tag: int) -> list[MPI.Request]:
        """Send without waiting; the message is kept until it is delivered."""
        if len(message) <= EAGER:
            return [self._isend(self.comm, message, dest, tag)]
        number = self._number()
        head = _ANNOUNCEMENT.pack(_FOLLOWS, number, len(message))
        return [
            self._isend(self.comm, head, dest, tag),
            self._isend(self.control, message, dest, number),
        ]

    def offer(self, message: Message, dest: int, tag: int) -> int | None:
        """Announce a message and return its number; None for a short one, which is sent at once."""
        if len(message) <= EAGER:
            self._isend(self.comm, message, dest, tag)
            return None
        number = self._number()
        head = _ANNOUNCEMENT.pack(_OFFERED, number, len(message))
        self._isend(self.comm, head, dest, tag)
        return number

    def is_awaited(self, dest: int, number: int) -> bool:
        """Tell whether the receiver of what was offered is there, within a moment."""
        ready = self.control.Irecv(_NOTHING, dest, number + 1)
        deadline = time.perf_counter() + _PATIENCE
        while not ready.Test():
            if time.perf_counter() > deadline:
                ready.Free()  # it will be received all the same, and says nothing new
                return False
            os.sched_yield()
        return True

    def follow(self, message: Message, dest: int, number: int, *, wait: bool) -> None:
        """Send what was offered, or a shorter message in its place; wait until it is taken."""
        request = self._isend(self.control, message, dest, number)
        if wait:
            request.Wait()

    def receive(self, source: int, tag: int, status: MPI.Status) -> Message | None:
        """Wait for a message and return it; None from PROC_NULL."""
        found = self.comm.Mprobe(source, tag, status)
        if status.source == MPI.PROC_NULL:
            return None
        message = empty(status.Get_count())
        found.Recv(message)
        if message[0] not in (_FOLLOWS, _OFFERED):
            return message
        request, buffer = self.answer(message, status.source)
        self.be_ready(message, status.source)
        its_status = MPI.Status()
        request.Wait(its_status)
        return buffer[: its_status.Get_count()]

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

    def answer(self, announcement: Message, source: int) -> tuple[MPI.Request, memoryview]:
        """Receive what was announced into new memory."""
        _, number, nbytes = _ANNOUNCEMENT.unpack(announcement)
        buffer = empty(max(nbytes, _FAILURE_UP_TO))
        return self.control.Irecv(buffer, source, number), buffer

    def be_ready(self, announcement: Message, source: int) -> None:
        """Tell a sender that asks for it that its receiver waits, until it has all."""
        kind, number, _ = _ANNOUNCEMENT.unpack(announcement)
        if kind == _OFFERED:
            self._isend(self.control, _NOTHING, source, number + 1)

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
        """Return the tag for what follows; the next one is for its receiver's answer."""
        return _FIRST_NUMBER + 2 * (next(self._counter) % self._numbers)


class Incoming:
    """A message that one rank is to send, received while its receiver does something else."""

    def __init__(self, mailbox: Mailbox, source: int, tag: int) -> None:
        self._mailbox = mailbox
        self._buffer = empty(EAGER)
        self._request = mailbox.comm.Irecv(self._buffer, source, tag)
        self._announcement: Message | None = None
        self._ready = False
        self.status = MPI.Status()
        mailbox.expected.add(self)

    def has_come(self, *, wait: bool) -> bool:
        """Tell whether it is all there, or wait until it is."""
        if self._announcement is None:
            if not self._is_done(self.status, wait=wait):
                return False
            self._buffer = self._buffer[: self.status.Get_count()]
            if len(self._buffer) == 0 or self._buffer[0] not in (_FOLLOWS, _OFFERED):
                self._mailbox.expected.discard(self)
                return True
            self._announcement = self._buffer
            self._request, self._buffer = self._mailbox.answer(
                self._announcement, self.status.source
            )
        if wait and not self._ready:
            # Not by who only looks: the sender would stay until that looks again.
            self._ready = True
            self._mailbox.be_ready(self._announcement, self.status.source)
        status = MPI.Status()
        if not self._is_done(status, wait=wait):
            return False
        self._buffer = self._buffer[: status.Get_count()]
        self._mailbox.expected.discard(self)
        return True

    def give_up(self) -> None:
        """Take the memory back from MPI."""
        self._request.Cancel()
        self._request.Wait()

    @property
    def message(self) -> Message | None:
        """The message, once it has come; None from PROC_NULL."""
        return self._buffer if len(self._buffer) else None

    def _is_done(self, status: MPI.Status, *, wait: bool) -> bool:
        if not wait:
            return self._request.Test(status)
        self._request.Wait(status)
        return True
