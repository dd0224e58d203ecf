"""Messages of any length moved among the ranks of a communicator, each verb in two steps.

The first moves a packet of fixed length from each rank: the message's begin, which tells its
length. The second moves the rest, if any has one: to all by a collective, to one rank by itself,
straight from the sender's array. mpi4py's own verbs move lengths first, then data; here a small
message needs the first step alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate

from mpi4py import MPI

from fsexchange.mpi.message import Message, Pieces, empty, joined, length, split
from fsexchange.serialize.format import ALIGNMENT

# Tags of the rest of a message to one rank, and of the empty one that ends a `doze`.
_REST, _WAKE = 4, 5

# What one rank sends to all costs MPICH the same up to 4 KiB: 1.4 us with 2 ranks, 5.4 with 4.
_PACKET_TO_ALL = 2048

# What one rank gets of all is as many packets as there are ranks: up to so many bytes together, and
# never less each than a message that names a file.
_PACKETS = 8192
_SMALLEST_PACKET = 128

# Seconds between two looks of who dozes.
_SHORTEST_NAP, _LONGEST_NAP = 5e-5, 1e-2


def bcast(comm: MPI.Intracomm, messages: Sequence[Pieces] | None, root: int) -> Message:
    """Return the root's only message on every rank, on the root its own copy."""
    packet = bytearray(_PACKET_TO_ALL)
    if messages is not None:
        begin, rest = split(messages[0], _PACKET_TO_ALL)
        packet[: len(begin)] = begin
        comm.Bcast(packet, root)
        if rest:
            comm.Bcast(rest, root)
        return joined(messages[0])
    comm.Bcast(packet, root)
    total = length(packet)
    if total <= _PACKET_TO_ALL:
        return packet
    whole = empty(total)
    whole[:_PACKET_TO_ALL] = packet
    comm.Bcast(whole[_PACKET_TO_ALL:], root)
    return whole


def gather(comm: MPI.Intracomm, message: Pieces, root: int) -> list[Message] | None:
    """Return the messages of all ranks, in their order, on the root; None on the others."""
    size = _packet_size(comm)
    if comm.rank == root:
        own = joined(message)
        packets = bytearray(size * comm.size)
        comm.Gather(_packets([own[:size]], size), packets, root)
        messages, requests = _arriving(comm, packets, own)
        MPI.Request.Waitall(requests)
        return messages
    begin, rest = split(message, size)
    comm.Gather(_packets([begin], size), None, root)
    if rest:
        comm.Send(rest, root, _REST)
    return None


def allgather(comm: MPI.Intracomm, message: Pieces) -> list[Message]:
    """Return the messages of all ranks, in their order, on every rank."""
    size = _packet_size(comm)
    begin, rest = split(message, size)
    packets = memoryview(bytearray(size * comm.size))
    comm.Allgather(_packets([begin], size), packets)
    came = [packets[at : at + size] for at in range(0, len(packets), size)]
    lengths = [length(packet) for packet in came]
    counts = [max(0, nbytes - size) for nbytes in lengths]
    if not any(counts):
        return [*came]
    spaces = [max(size, nbytes) for nbytes in lengths]
    places = [0, *accumulate(space + -space % ALIGNMENT for space in spaces)]
    memory = empty(places.pop())
    comm.Allgatherv(rest, (memory, counts, [at + size for at in places], MPI.BYTE))
    for at, packet in zip(places, came, strict=True):
        memory[at : at + size] = packet
    return [memory[at : at + n] for at, n in zip(places, lengths, strict=True)]


def scatter(comm: MPI.Intracomm, messages: Sequence[Pieces] | None, root: int) -> Message:
    """Return the message for this rank of the root's messages, one for each rank."""
    size = _packet_size(comm)
    packet = bytearray(size)
    if messages is not None:
        own = joined(messages[root])
        parts = [split(message, size) for message in _replaced(messages, root, own)]
        comm.Scatter(_packets([begin for begin, _ in parts], size), packet, root)
        MPI.Request.Waitall(_leaving(comm, parts))
        return own
    comm.Scatter(None, packet, root)
    total = length(packet)
    if total <= size:
        return packet
    whole = empty(total)
    whole[:size] = packet
    comm.Recv(whole[size:], root, _REST)
    return whole


def alltoall(comm: MPI.Intracomm, messages: Sequence[Pieces]) -> list[Message]:
    """Return the messages for this rank of all ranks, in their order; each has one for each."""
    size = _packet_size(comm)
    own = joined(messages[comm.rank])
    parts = [split(message, size) for message in _replaced(messages, comm.rank, own)]
    packets = bytearray(size * comm.size)
    comm.Alltoall(_packets([begin for begin, _ in parts], size), packets)
    arrived, requests = _arriving(comm, packets, own)
    MPI.Request.Waitall(requests + _leaving(comm, parts))
    return arrived


def doze(comm: MPI.Intracomm, root: int) -> None:
    """Wait until the root calls `wake`, a twentieth longer than needed, and leave others the cores.

    MPI's own ways of waiting all take a core, which the root may need where ranks share them.
    """
    woken = comm.Irecv(bytearray(), root, _WAKE)
    start = time.perf_counter()
    while not woken.Test():
        time.sleep(min(_LONGEST_NAP, _SHORTEST_NAP + (time.perf_counter() - start) / 20))


def wake(comm: MPI.Intracomm) -> None:
    """Have all others return from `doze`."""
    for rank in range(comm.size):
        if rank != comm.rank:
            comm.Send(b"", rank, _WAKE)


def _packet_size(comm: MPI.Intracomm) -> int:
    size = max(_SMALLEST_PACKET, min(_PACKET_TO_ALL, _PACKETS // comm.size))
    return size - size % ALIGNMENT


def _packets(begins: Sequence[Message], size: int) -> bytearray:
    packets = bytearray(size * len(begins))
    for n, begin in enumerate(begins):
        packets[n * size : n * size + len(begin)] = begin
    return packets


def _replaced(messages: Sequence[Pieces], rank: int, own: Message) -> list[Pieces]:
    """Return the messages with that to this rank itself in one piece, not to be joined again."""
    return [*messages[:rank], [own], *messages[rank + 1 :]]


def _arriving(
    comm: MPI.Intracomm, packets: bytearray, own: Message
) -> tuple[list[Message], list[MPI.Request]]:
    """Return the messages of all ranks, whole once the requests for their rests are done."""
    size = len(packets) // comm.size
    messages: list[Message] = []
    requests = []
    for rank in range(comm.size):
        packet = memoryview(packets)[rank * size : (rank + 1) * size]
        total = length(packet)
        if rank == comm.rank:
            messages.append(own)
        elif total <= size:
            messages.append(packet)
        else:
            whole = empty(total)
            whole[:size] = packet
            requests.append(comm.Irecv(whole[size:], rank, _REST))
            messages.append(whole)
    return messages, requests


def _leaving(comm: MPI.Intracomm, parts: Sequence[tuple[Message, Message]]) -> list[MPI.Request]:
    """Send the rests to other ranks, each straight from where it is."""
    return [
        comm.Isend(rest, rank, _REST)
        for rank, (_, rest) in enumerate(parts)
        if rest and rank != comm.rank
    ]
