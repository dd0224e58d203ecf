"""Packets: collectives that move messages of any length, each in two steps.

The first step moves packets, all of the same length. A packet is the start of a message, and its
head tells which call it is of and how long the message is. The second step moves the rests, if
there are any: a rest for all ranks by a collective, one for a single rank by a message, straight
from the sender's array. mpi4py's verbs move lengths first, then data; here a small message needs
only the first step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate

from mpi4py import MPI

from fsexchange.errors import MismatchError
from fsexchange.mpi import wire
from fsexchange.mpi.message import (
    Message,
    Pieces,
    empty,
    is_of,
    length,
    split,
    the_call,
)
from fsexchange.serialize.format import ALIGNMENT

#: Bytes of the packet of a bcast: objects of 4 KiB have room. MPICH takes about the same time up to
#: here; it has a step between 6 and 8 KiB.
PACKET_TO_ALL = 4096 + 128

# In other verbs: bytes of all packets that a rank receives, and of the smallest packet, which is
# enough for a message that refers to a file.
_PACKETS = 2 * PACKET_TO_ALL
_SMALLEST_PACKET = 128

# A message of fewer bytes, beside others in memory that is so many times larger, gets its own:
# else a small object would keep all of it.
_COPIED_BELOW = 1 << 16
_TIMES_LARGER = 16

# Seconds that a dozing rank sleeps between two looks.
_SHORTEST_NAP, _LONGEST_NAP = 5e-5, 1e-2


class Packets:
    """The messages of collectives among the ranks of a communicator.

    Each method takes the call that all messages must be of; `MismatchError` if one is of another.
    """

    def __init__(self, comm: MPI.Intracomm, hosts: Sequence[str]) -> None:
        self._comm = comm
        self._rank, self._ranks = comm.rank, range(comm.size)
        self._hosts = hosts
        size = max(_SMALLEST_PACKET, min(PACKET_TO_ALL, _PACKETS // comm.size))
        self.size = size - size % ALIGNMENT
        """Bytes of a packet of verbs other than bcast."""

    # ---- one root -------------------------------------------------------------------------------

    def bcast(self, message: Pieces, root: int) -> None:
        """Send the root's message to all ranks; called by the root."""
        start, rest = split(message, PACKET_TO_ALL)
        self._comm.Bcast(start.ljust(PACKET_TO_ALL, b"\0"), root)
        if rest:
            self._comm.Bcast(rest, root)

    def bcast_from(self, call: bytes, root: int, packet: Message | None = None) -> Message:
        """Return the root's message, of which perhaps the packet is here; called by the others."""
        if packet is None:
            packet = bytearray(PACKET_TO_ALL)
            self._comm.Bcast(packet, root)
        total = self._length(call, packet, root)
        if total <= PACKET_TO_ALL:
            return packet
        whole = empty(total)
        whole[:PACKET_TO_ALL] = packet
        self._comm.Bcast(whole[PACKET_TO_ALL:], root)
        return whole

    def scatter(self, messages: Sequence[Pieces], root: int) -> None:
        """Send each rank its message; called by the root."""
        packets, rests = self._split_each(messages)
        self._comm.Scatter(packets, MPI.IN_PLACE, root)
        MPI.Request.Waitall(self._send_rests(rests))

    def scatter_from(self, call: bytes, root: int, packet: Message | None = None) -> Message:
        """Return the root's message, of which perhaps the packet is here; called by the others."""
        if packet is None:
            packet = bytearray(self.size)
            self._comm.Scatter(None, packet, root)
        total = self._length(call, packet, root)
        if total <= self.size:
            return packet
        whole = empty(total)
        whole[: self.size] = packet
        self._comm.Recv(whole[self.size :], root, wire.REST)
        return whole

    # ---- all ranks ------------------------------------------------------------------------------
    # These take the packets of all ranks, and return their messages.

    def gathered(self, call: bytes, packets: bytearray) -> list[Message]:
        """Return the whole messages on the root."""
        messages, requests = self._receive_rests(call, packets)
        MPI.Request.Waitall(requests)
        return messages

    def send_rest(self, rest: Message, root: int) -> None:
        """Send the root of a gather the rest of this rank's message."""
        self._comm.Send(rest, root, wire.REST)

    def allgathered(self, call: bytes, packets: bytearray, rest: Message) -> list[Message]:
        """Return the whole messages; `rest` is this rank's."""
        size = self.size
        came = self._cut(call, packets)
        lengths = [max(size, length(packet)) for packet in came]
        if max(lengths) <= size:
            return [*came]
        places = [0, *accumulate(nbytes + -nbytes % ALIGNMENT for nbytes in lengths)]
        memory = empty(places.pop())
        counts = [nbytes - size for nbytes in lengths]
        self._comm.Allgatherv(rest, (memory, counts, [at + size for at in places], MPI.BYTE))
        for at, packet in zip(places, came, strict=True):
            memory[at : at + size] = packet
        messages = [memory[at : at + n] for at, n in zip(places, lengths, strict=True)]
        own = min(_COPIED_BELOW, len(memory) // _TIMES_LARGER)
        return [bytearray(each) if len(each) < own else each for each in messages]

    def alltoall(self, call: bytes, messages: Sequence[Pieces]) -> list[Message]:
        """Send each rank its message, and return those of all ranks for this one."""
        packets, rests = self._split_each(messages)
        received = bytearray(len(packets))
        self._comm.Alltoall(packets, received)
        whole, requests = self._receive_rests(call, received)
        MPI.Request.Waitall(requests + self._send_rests(rests))
        return whole

    def doze(self, root: int) -> None:
        """Sleep until the root calls `wake`, and at most a twentieth longer.

        A rank that waits in MPI keeps its core busy, which the root may need where ranks share
        cores.
        """
        woken = self._comm.Irecv(bytearray(), root, wire.WAKE)
        began = time.perf_counter()
        while not woken.Test():
            time.sleep(min(_LONGEST_NAP, _SHORTEST_NAP + (time.perf_counter() - began) / 20))

    def wake(self) -> None:
        """Let all other ranks return from `doze`."""
        for rank in self._ranks:
            if rank != self._rank:
                self._comm.Send(b"", rank, wire.WAKE)

    def _length(self, call: bytes, packet: Message, rank: int) -> int:
        """Return the length of a rank's message; `MismatchError` if it is of another call."""
        if not is_of(packet, call):
            host, own = self._hosts[rank], self._hosts[self._rank]
            raise MismatchError(
                f"rank {self._rank} ({own}) is in {the_call(call)}, and rank {rank} ({host}) in "
                f"{the_call(packet)}: all ranks must call the same verbs in the same order",
                rank=rank,
                host=host,
            )
        return length(packet)

    def _cut(self, call: bytes, packets: bytearray) -> list[memoryview]:
        """Return the packet of each rank, all of them of the call."""
        view = memoryview(packets)
        came = [view[at : at + self.size] for at in range(0, len(packets), self.size)]
        for rank, packet in enumerate(came):
            self._length(call, packet, rank)
        return came

    def _split_each(self, messages: Sequence[Pieces]) -> tuple[bytes, list[Message]]:
        """Return the packets for all ranks, and the rests for the others."""
        parts = [
            # Its own message stays with its rank, which joins nothing for it.
            (bytes(message[0][: self.size]), b"")
            if rank == self._rank
            else split(message, self.size)
            for rank, message in enumerate(messages)
        ]
        packets = b"".join([start.ljust(self.size, b"\0") for start, _ in parts])
        return packets, [rest for _, rest in parts]

    def _receive_rests(
        self, call: bytes, packets: bytearray
    ) -> tuple[list[Message], list[MPI.Request]]:
        """Return the messages of all ranks, those of others whole once the requests are done."""
        size = self.size
        messages: list[Message] = []
        requests = []
        for rank, packet in enumerate(self._cut(call, packets)):
            total = length(packet)
            if rank == self._rank or total <= size:
                messages.append(packet)
            else:
                whole = empty(total)
                whole[:size] = packet
                requests.append(self._comm.Irecv(whole[size:], rank, wire.REST))
                messages.append(whole)
        return messages, requests

    def _send_rests(self, rests: Sequence[Message]) -> list[MPI.Request]:
        """Send the rests to the other ranks, without a copy."""
        return [self._comm.Isend(rest, rank, wire.REST) for rank, rest in enumerate(rests) if rest]
