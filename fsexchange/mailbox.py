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

# Bytes that an MPI takes from a sender without asking the receiver: MPICH's limit between processes
# of one host, and the smallest of the common ones.
_EAGER = 4096

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
        self._leaving: list[tuple[MPI.Request, Message]] = []
        self._leaving_bytes = 0
        self._look_again_at = 64

    @property
    def crowded(self) -> bool:
        """Whether so much is on its way that more must not be kept in memory."""
        return self._leaving_bytes >= _CROWD

    def post(self, message: Message, dest: int, tag: int) -> list[MPI.Request]:
        """Send without waiting; the message is kept until it is delivered."""
        if len(message) <= _EAGER:
            return [self._isend(self.comm, message, dest, tag)]
        number = self._number()
        head = _ANNOUNCEMENT.pack(_FOLLOWS, number, len(message))
        return [
            self._isend(self.comm, head, dest, tag),
            self._isend(self.control, message, dest, number),
        ]

    def offer(self, message: Message, dest: int, tag: int) -> int | None:
        """Announce a message and return its number; None for a short one, which is sent at once."""
        if len(message) <= _EAGER:
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
        request, message = self.answer(message, status.source)
        its_status = MPI.Status()
        request.Wait(its_status)
        return message[: its_status.Get_count()]

    def drain(self) -> None:
        """Receive what nobody has, as MPI would keep it, once all ranks have ended their use."""
        while self.comm.Iprobe():
            self.receive(MPI.ANY_SOURCE, MPI.ANY_TAG, MPI.Status())

    def answer(self, announcement: Message, source: int) -> tuple[MPI.Request, memoryview]:
        """Receive what was announced into new memory; tell the sender if that waits for us."""
        kind, number, nbytes = _ANNOUNCEMENT.unpack(announcement)
        buffer = empty(max(nbytes, _FAILURE_UP_TO))
        request = self.control.Irecv(buffer, source, number)
        if kind == _OFFERED:
            self._isend(self.control, _NOTHING, source, number + 1)
        return request, buffer

    def _isend(self, comm: MPI.Intracomm, message: Message, dest: int, tag: int) -> MPI.Request:
        request = comm.Isend(message, dest, tag)
        if not request.Test():
            self._leaving.append((request, message))
            self._leaving_bytes += len(message)
            if len(self._leaving) >= self._look_again_at or self.crowded:
                self._leaving = [pair for pair in self._leaving if not pair[0].Test()]
                self._leaving_bytes = sum(len(message) for _, message in self._leaving)
                self._look_again_at = 2 * len(self._leaving) + 64
        return request

    def _number(self) -> int:
        """Return the tag for what follows; the next one is for its receiver's answer."""
        return _FIRST_NUMBER + 2 * (next(self._counter) % self._numbers)


class Incoming:
    """A message that one rank is to send, received while its receiver does something else."""

    def __init__(self, mailbox: Mailbox, source: int, tag: int) -> None:
        self._mailbox = mailbox
        self._buffer = empty(_EAGER)
        self._request = mailbox.comm.Irecv(self._buffer, source, tag)
        self._announced = False
        self.status = MPI.Status()

    def has_come(self, *, wait: bool) -> bool:
        """Tell whether it is all there, or wait until it is."""
        status = MPI.Status() if self._announced else self.status
        if wait:
            self._request.Wait(status)
        elif not self._request.Test(status):
            return False
        if status.source == MPI.PROC_NULL:
            self._buffer = self._buffer[:0]
            return True
        message = self._buffer[: status.Get_count()]
        if self._announced or message[0] not in (_FOLLOWS, _OFFERED):
            self._buffer = message
            return True
        self._announced = True
        self._request, self._buffer = self._mailbox.answer(message, status.source)
        return self.has_come(wait=wait)

    @property
    def message(self) -> Message | None:
        """The message, once it has come; None from PROC_NULL."""
        return self._buffer if len(self._buffer) else None
