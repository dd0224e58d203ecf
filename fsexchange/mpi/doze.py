"""Doze: wait for MPI without keeping a core busy."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mpi4py import MPI

# Seconds that a dozing rank sleeps between two looks.
_SHORTEST_NAP, _LONGEST_NAP = 5e-5, 1e-2


def doze(requests: Sequence[MPI.Request], *, awake: bool = False) -> None:
    """Wait for requests, asleep most of the time, at most a twentieth longer than it takes.

    A rank that waits in MPI keeps its core busy, which others may need where ranks share cores;
    `awake` does, as MPI moves no data meanwhile. What a signal's handler raises comes after the
    wait: others are in step with this rank.
    """
    began, raised = time.perf_counter(), None
    while True:
        try:
            if awake:
                MPI.Request.Waitall(requests)
            if MPI.Request.Testall(requests):
                break
            time.sleep(min(_LONGEST_NAP, _SHORTEST_NAP + (time.perf_counter() - began) / 20))
        except BaseException as error:
            raised = error
    if raised is not None:
        raise raised
