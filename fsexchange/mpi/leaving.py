"""How ranks leave together, and find out who does not.

A rank that leaves by an exception asks all others whether they have left, too; those that have,
answer. Only ranks in `leave` look for such questions, so who does not answer is elsewhere: at work,
or waiting in a verb for a rank that will never come.
"""

from __future__ import annotations

import time

from mpi4py import MPI

_ASK, _HERE = 1, 2

#: Tags that other users of the same communicator may not use.
TAGS = (_ASK, _HERE)

_NOTHING = b""


def leave(comm: MPI.Intracomm, *, by_exception: bool, timeout: float | None) -> list[int]:
    """Wait for all ranks; return those missing after `timeout` seconds, none once all have come.

    Collective, unless it returns missing ranks. `timeout` None waits for ever.
    """
    others = [rank for rank in range(comm.size) if rank != comm.rank]
    raised = bytearray(comm.size)
    everyone = comm.Iallgather(bytes([by_exception]), raised)
    if by_exception:
        for rank in others:
            comm.Isend(_NOTHING, rank, _ASK).Free()  # empty: no buffer to keep
    answered: set[int] = set()
    here: set[int] = set()
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.0
    while not everyone.Test():
        for rank in _senders(comm, _ASK):
            comm.Send(_NOTHING, rank, _HERE)
            answered.add(rank)
        here.update(_senders(comm, _HERE))
        missing = [rank for rank in others if rank not in here]
        if missing and deadline is not None and time.monotonic() > deadline:
            return missing
        time.sleep(pause)
        pause = min(pause + 1e-5, 1e-3)
    # Leave no message behind. All others are here, too, and do the same.
    for rank in others:
        if raised[rank] and rank not in answered:
            comm.Recv(bytearray(), rank, _ASK)
            comm.Send(_NOTHING, rank, _HERE)
        if by_exception and rank not in here:
            comm.Recv(bytearray(), rank, _HERE)
    return []


def _senders(comm: MPI.Intracomm, tag: int) -> list[int]:
    """Return the ranks whose messages of this tag have come, and receive those."""
    status = MPI.Status()
    found = []
    while comm.Iprobe(MPI.ANY_SOURCE, tag, status):
        comm.Recv(bytearray(), status.source, tag)
        found.append(status.source)
    return found
