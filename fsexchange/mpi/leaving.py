"""Leaving together: wait for all ranks, and find out which of them do not come.

A rank that leaves by an exception asks all others whether they have left, too, and so does one that
has waited for long. Ranks answer only while they are in `leave`, so a rank that does not answer is
elsewhere: it computes, or waits in a verb for a rank that will never come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from mpi4py import MPI

from fsexchange.mpi.wire import ASK, HERE, LEAVES

_NOTHING = b""

# Seconds within which a rank that is in `leave` answers, also where ranks share cores.
_ANSWERS_WITHIN = 1.0


def leave(
    comm: MPI.Intracomm, *, by_exception: bool, timeout: float, tell: Callable[[list[int]], None]
) -> list[int]:
    """Wait for all ranks, and return no rank; or return those that are missing.

    Collective, unless it returns missing ranks: `by_exception`, after `timeout` seconds. Else it
    waits for ever, and after that time the lowest of the ranks that are here calls `tell` with
    those that are not.
    """
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    asked = told = False
    answered: set[int] = set()
    here: set[int] = set()
    late = time.monotonic() + timeout
    pause = 0.0
    for _ in _until_all_are_here(comm):
        is_late = time.monotonic() > late
        if not asked and (by_exception or is_late):
            asked = True
            for rank in others:
                comm.Isend(_NOTHING, rank, ASK).Free()  # empty: no buffer to keep
        for rank in _senders(comm, ASK):
            comm.Send(_NOTHING, rank, HERE)
            answered.add(rank)
        here.update(_senders(comm, HERE))
        missing = [rank for rank in others if rank not in here]
        if by_exception and is_late and missing:
            return missing
        if not told and time.monotonic() > late + _ANSWERS_WITHIN:
            told = True
            if missing and missing[: comm.rank] == others[: comm.rank]:
                tell(missing)
        time.sleep(pause)
        pause = min(pause + 1e-5, 1e-3)
    # Receive every message that was sent. All other ranks are here, and do the same.
    asking = bytearray(comm.size)
    comm.Allgather(bytes([asked]), asking)
    for rank in others:
        if asking[rank] and rank not in answered:
            comm.Recv(bytearray(), rank, ASK)
            comm.Send(_NOTHING, rank, HERE)
        if asked and rank not in here:
            comm.Recv(bytearray(), rank, HERE)
    return []


def _until_all_are_here(comm: MPI.Intracomm) -> Iterator[None]:
    """Yield for as long as other ranks have not come.

    By messages, a dissemination barrier: MPI could take one of its own for the part of this rank in
    a collective in which another waits.
    """
    step = 1
    while step < comm.size:
        comm.Isend(_NOTHING, (comm.rank + step) % comm.size, LEAVES).Free()
        arrived = comm.Irecv(bytearray(), (comm.rank - step) % comm.size, LEAVES)
        while not arrived.Test():
            yield
        step *= 2


def _senders(comm: MPI.Intracomm, tag: int) -> list[int]:
    """Receive the messages of this tag that have arrived, and return their senders."""
    status = MPI.Status()
    found = []
    while comm.Iprobe(MPI.ANY_SOURCE, tag, status):
        comm.Recv(bytearray(), status.source, tag)
        found.append(status.source)
    return found
