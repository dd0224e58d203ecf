"""Leaving together: wait for all ranks, and find out which of them do not come.

A rank that leaves by an exception asks all others whether they have left, too. Ranks answer only
while they are in `leave`, so a rank that does not answer is elsewhere: it computes, or waits in a
verb for a rank that will never come.
"""

from __future__ import annotations

import time

from mpi4py import MPI

from fsexchange.mpi.wire import ASK, HERE

_NOTHING = b""


def leave(comm: MPI.Intracomm, *, by_exception: bool, timeout: float | None) -> list[int]:
    """Wait for all ranks, and return no rank; or return those missing after `timeout` seconds.

    Collective, unless it returns missing ranks. A `timeout` of None waits for ever.
    """
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    raised = bytearray(comm.size)
    everyone = comm.Iallgather(bytes([by_exception]), raised)
    if by_exception:
        for rank in others:
            comm.Isend(_NOTHING, rank, ASK).Free()  # empty: no buffer to keep
    answered: set[int] = set()
    here: set[int] = set()
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.0
    while not everyone.Test():
        for rank in _senders(comm, ASK):
            comm.Send(_NOTHING, rank, HERE)
            answered.add(rank)
        here.update(_senders(comm, HERE))
        missing = [rank for rank in others if rank not in here]
        if missing and deadline is not None and time.monotonic() > deadline:
            return missing
        time.sleep(pause)
        pause = min(pause + 1e-5, 1e-3)
    # Receive every message that was sent. All other ranks are here, and do the same.
    for rank in others:
        if raised[rank] and rank not in answered:
            comm.Recv(bytearray(), rank, ASK)
            comm.Send(_NOTHING, rank, HERE)
        if by_exception and rank not in here:
            comm.Recv(bytearray(), rank, HERE)
    return []


def _senders(comm: MPI.Intracomm, tag: int) -> list[int]:
    """Receive the messages of this tag that have arrived, and return their senders."""
    status = MPI.Status()
    found = []
    while comm.Iprobe(MPI.ANY_SOURCE, tag, status):
        comm.Recv(bytearray(), status.source, tag)
        found.append(status.source)
    return found
