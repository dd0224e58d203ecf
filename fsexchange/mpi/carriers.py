"""Carriers: how the packets of a collective travel, by messages or by MPI's own collectives.

Among few ranks of a host each packet is one message, no longer than what is in it: MPI takes it
from its sender at once, and its receiver has it as soon as that has sent it. mpi4py's verbs call
two collectives, in which ranks also wait for others through which the data passes. For numbers and
4,000 characters, with MPICH and 2, 4 and 8 ranks on 2 cores, this takes 0.5 to 1 of their time.

Among more ranks, or between hosts, MPI's collectives take fewer messages; then all packets of a
call have the same length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Protocol

from mpi4py import MPI

from fsexchange.mpi import wire
from fsexchange.mpi.limits import EAGER, FEW
from fsexchange.serialize.format import ALIGNMENT

if TYPE_CHECKING:
    from fsexchange.mpi.buffers import Buffer
    from fsexchange.mpi.hosts import Hosts

# Bytes of the packet of MPI's Bcast: objects of 4 KiB have room. MPICH takes about the same time up
# to here; it has a step between 6 and 8 KiB.
_TO_ALL = 4096 + 128

# In other verbs: bytes of the packets that a rank passes on for others, and of the smallest packet,
# which is enough for a message that refers to a file. MPICH passes them on along a binomial tree,
# up to half of all in one message; one of 8 KiB and more takes up to twice as long.
_PASSED_ON = 8192 - ALIGNMENT
_SMALLEST = 128


class Carrier(Protocol):
    """A way for packets, each of which may be shorter than the memory that it is received in.

    What sends gets a list, which is empty until packets are out, whatever a handler raises.
    """

    size: int
    """The most bytes that a packet may have."""
    size_to_all: int
    """The same for a bcast."""

    def bcast(self, packet: bytes, root: int, out: list[None]) -> None:
        """Send a packet to all ranks."""

    def bcast_from(self, packet: Buffer, root: int) -> None:
        """Receive the root's."""

    def scatter(self, packets: Sequence[bytes], root: int, out: list[None]) -> None:
        """Send each rank its packet."""

    def scatter_from(self, packet: Buffer, root: int) -> None:
        """Receive the root's packet for this rank."""

    def gather(self, packet: bytes, root: int, out: list[None]) -> None:
        """Send the root this rank's packet."""

    def gathered(self, packets: Buffer, root: int) -> None:
        """Receive the packets of the others beside the root's own, which is this rank."""

    def allgather(self, packet: bytes, packets: Buffer) -> None:
        """Send this rank's packet to all ranks, and receive theirs beside it."""

    def alltoall(self, sent: Sequence[bytes], packets: Buffer) -> None:
        """Send each rank its packet, and receive one of each beside this rank's own."""


class ByMessages:
    """Carries packets by messages of their own lengths."""

    # All calls that send or receive several are in C: the handler of a signal that raised between
    # two would leave a rank without its packet, or a message that the next call takes for its own.
    # Each returns None, or is appended and then None, so `any` makes them all.

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.size = self.size_to_all = EAGER - EAGER % ALIGNMENT
        self._others = (*range(comm.rank + 1, comm.size), *range(comm.rank))
        self._send, self._isend, self._recv = comm.Send, comm.Isend, comm.Recv
        self._sendrecv = comm.Sendrecv

    def bcast(self, packet: bytes, root: int, out: list[None]) -> None:
        out.extend(map(self._send, repeat(packet), self._others, repeat(wire.PACKET)))

    def bcast_from(self, packet: Buffer, root: int) -> None:
        self._recv(packet.memory, root, wire.PACKET)

    def scatter(self, packets: Sequence[bytes], root: int, out: list[None]) -> None:
        others = self._others
        out.extend(map(self._send, map(packets.__getitem__, others), others, repeat(wire.PACKET)))

    scatter_from = bcast_from

    def gather(self, packet: bytes, root: int, out: list[None]) -> None:
        self._send(packet, root, wire.PACKET)
        out.append(None)

    def gathered(self, packets: Buffer, root: int) -> None:
        any(self._receives(packets))

    def allgather(self, packet: bytes, packets: Buffer) -> None:
        self._exchange([packet] * len(self._others), packets)

    def alltoall(self, sent: Sequence[bytes], packets: Buffer) -> None:
        self._exchange([*map(sent.__getitem__, self._others)], packets)

    def _exchange(self, sent: Sequence[bytes], packets: Buffer) -> None:
        if len(sent) == 1:  # in two thirds of the time
            (other,) = self._others
            into = packets.packets[other]
            self._sendrecv(sent[0], other, wire.PACKET, into, other, wire.PACKET)
            return
        requests: list[MPI.Request] = []
        sends = map(self._isend, sent, self._others, repeat(wire.PACKET))
        try:
            any(chain(map(requests.append, sends), self._receives(packets)))
        finally:
            MPI.Request.Waitall(requests)

    def _receives(self, packets: Buffer) -> Iterator[None]:
        into = map(packets.packets.__getitem__, self._others)
        return map(self._recv, into, self._others, repeat(wire.PACKET))


class ByCollectives:
    """Carries packets of one length by MPI's collectives."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        half = (1 << (comm.size - 1).bit_length()) // 2 or 1
        size = max(_SMALLEST, min(_TO_ALL, _PASSED_ON // half))
        self.size = size - size % ALIGNMENT
        self.size_to_all = _TO_ALL
        self._comm = comm

    def bcast(self, packet: bytes, root: int, out: list[None]) -> None:
        out.extend(map(self._comm.Bcast, (packet.ljust(self.size_to_all, b"\0"),), (root,)))

    def bcast_from(self, packet: Buffer, root: int) -> None:
        self._comm.Bcast(packet.spec, root)

    def scatter(self, packets: Sequence[bytes], root: int, out: list[None]) -> None:
        sent = [self._joined(packets), self.size, MPI.BYTE]
        out.extend(map(self._comm.Scatter, (sent,), (MPI.IN_PLACE,), (root,)))

    def scatter_from(self, packet: Buffer, root: int) -> None:
        self._comm.Scatter(None, packet.spec, root)

    def gather(self, packet: bytes, root: int, out: list[None]) -> None:
        sent = [self._joined([packet]), self.size, MPI.BYTE]
        out.extend(map(self._comm.Gather, (sent,), (None,), (root,)))

    def gathered(self, packets: Buffer, root: int) -> None:
        self._comm.Gather(MPI.IN_PLACE, packets.spec, root)

    def allgather(self, packet: bytes, packets: Buffer) -> None:
        self._comm.Allgather(MPI.IN_PLACE, packets.spec)

    def alltoall(self, sent: Sequence[bytes], packets: Buffer) -> None:
        self._comm.Alltoall([self._joined(sent), self.size, MPI.BYTE], packets.spec)

    def _joined(self, packets: Sequence[bytes]) -> bytes:
        return b"".join([packet.ljust(self.size, b"\0") for packet in packets])


def carrier(comm: MPI.Intracomm, hosts: Hosts) -> Carrier:
    """Return the faster way for packets among the ranks of a communicator."""
    few = hosts.count == 1 and comm.size <= FEW
    return ByMessages(comm) if few else ByCollectives(comm)
