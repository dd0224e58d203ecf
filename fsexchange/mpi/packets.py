"""Collectives that move messages of any length, each in two steps.

The first step moves packets, all of the same length. A packet is the start of a message, and its
head tells how long the message is. The second step moves the rests, if there are any: a rest for
all ranks by a collective, one for a single rank by a message, straight from the sender's array.
mpi4py's verbs move lengths first, then data; here a small message needs only the first step.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import accumulate

from mpi4py import MPI

from fsexchange.mpi import wire
from fsexchange.mpi.message import Message, Pieces, empty, joined, length, split
from fsexchange.serialize.format import ALIGNMENT

# Bytes of the packet of a bcast. Up to 4 KiB MPICH takes the same time: 1.4 us for 2 ranks, 5.4 us
# for 4.
_PACKET_TO_ALL = 2048

# In other verbs: bytes of all packets that a rank receives, and of the smallest packet, which is
# enough for a message that refers to a file.
_PACKETS = 8192
_SMALLEST_PACKET = 128

# Seconds that a dozing rank sleeps between two looks.
_SHORTEST_NAP, _LONGEST_NAP = 5e-5, 1e-2


def bcast(comm: MPI.Intracomm, messages: Sequence[Pieces] | None, root: int) -> Message:
    """Return the root's message on every rank, a copy on the root as well."""
    packet = bytearray(_PACKET_TO_ALL)
    if messages is not None:
        start, rest = split(messages[0], _PACKET_TO_ALL)
        packet[: len(start)] = start
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
        messages, requests = _receive_rests(comm, packets, own)
        MPI.Request.Waitall(requests)
        return messages
    start, rest = split(message, size)
    comm.Gather(_packets([start], size), None, root)
    if rest:
        comm.Send(rest, root, wire.REST)
    return None


def allgather(comm: MPI.Intracomm, message: Pieces) -> list[Message]:
    """Return the messages of all ranks, in their order, on every rank."""
    size = _packet_size(comm)
    start, rest = split(message, size)
    packets = memoryview(bytearray(size * comm.size))
    comm.Allgather(_packets([start], size), packets)
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
    """Return the message that the root has for this rank; the root passes one for each rank."""
    size = _packet_size(comm)
    packet = bytearray(size)
    if messages is not None:
        own = joined(messages[root])
        parts = [split(message, size) for message in _replaced(messages, root, own)]
        comm.Scatter(_packets([start for start, _ in parts], size), packet, root)
        MPI.Request.Waitall(_send_rests(comm, parts))
        return own
    comm.Scatter(None, packet, root)
    total = length(packet)
    if total <= size:
        return packet
    whole = empty(total)
    whole[:size] = packet
    comm.Recv(whole[size:], root, wire.REST)
    return whole


def alltoall(comm: MPI.Intracomm, messages: Sequence[Pieces]) -> list[Message]:
    """Return the messages that all ranks have for this one, in the order of ranks."""
    size = _packet_size(comm)
    own = joined(messages[comm.rank])
    parts = [split(message, size) for message in _replaced(messages, comm.rank, own)]
    packets = bytearray(size * comm.size)
    comm.Alltoall(_packets([start for start, _ in parts], size), packets)
    received, requests = _receive_rests(comm, packets, own)
    MPI.Request.Waitall(requests + _send_rests(comm, parts))
    return received


def doze(comm: MPI.Intracomm, root: int) -> None:
    """Sleep until the root calls `wake`, and at most a twentieth longer.

    A rank that waits in MPI keeps its core busy, which the root may need where ranks share cores.
    """
    woken = comm.Irecv(bytearray(), root, wire.WAKE)
    began = time.perf_counter()
    while not woken.Test():
        time.sleep(min(_LONGEST_NAP, _SHORTEST_NAP + (time.perf_counter() - began) / 20))


def wake(comm: MPI.Intracomm) -> None:
    """Let all other ranks return from `doze`."""
    for rank in range(comm.size):
        if rank != comm.rank:
            comm.Send(b"", rank, wire.WAKE)


def _packet_size(comm: MPI.Intracomm) -> int:
    size = max(_SMALLEST_PACKET, min(_PACKET_TO_ALL, _PACKETS // comm.size))
    return size - size % ALIGNMENT


def _packets(starts: Sequence[Message], size: int) -> bytearray:
    packets = bytearray(size * len(starts))
    for n, start in enumerate(starts):
        packets[n * size : n * size + len(start)] = start
    return packets


def _replaced(messages: Sequence[Pieces], rank: int, own: Message) -> list[Pieces]:
    """Return the messages, with this rank's own joined, so that `split` does not join it again."""
    return [*messages[:rank], [own], *messages[rank + 1 :]]


def _receive_rests(
    comm: MPI.Intracomm, packets: bytearray, own: Message
) -> tuple[list[Message], list[MPI.Request]]:
    """Return the messages of all ranks, which are whole once the requests are done."""
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
            requests.append(comm.Irecv(whole[size:], rank, wire.REST))
            messages.append(whole)
    return messages, requests


def _send_rests(comm: MPI.Intracomm, parts: Sequence[tuple[Message, Message]]) -> list[MPI.Request]:
    """Send the rests to the other ranks, without a copy."""
    return [
        comm.Isend(rest, rank, wire.REST)
        for rank, (_, rest) in enumerate(parts)
        if rest and rank != comm.rank
    ]
