"""What a collective takes of a host and of the shared directory: `hosts.py NAME DIRECTORY`.

tests/test_hosts.py launches them, on one host and as if on several, and judges what they print.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from fsexchange.mpi import Exchange
from fsexchange.mpi.received import forget
from fsexchange.mpi.room import HostRoom

from .common import base, comm, rank, run, size

# Bytes of an object, and of all its copies on a host from which it goes by memory that ranks share.
LARGE, LIMIT = 16 << 20, 8 << 20


def verbs(ex: Exchange, obj: Any) -> dict[str, Callable[[], Any]]:
    """Return calls of the verbs, in which each rank sends an object of the same length."""
    return {
        "bcast": lambda: ex.bcast(obj if rank == 0 else None),
        "allgather": lambda: ex.allgather(obj),
        "assemble": lambda: ex.assemble(obj),
        "allreduce": lambda: ex.allreduce(obj.view("i8") if obj.dtype == "u1" else obj),
        "gather": lambda: ex.gather(obj),
        "scatter": lambda: ex.scatter([obj] * size if rank == 0 else None),
        "alltoall": lambda: ex.alltoall([obj] * size),
    }


def copies() -> None:
    """Print for each verb how many objects the memory of all ranks has more when all are read."""
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for name, verb in verbs(ex, np.full(LARGE, rank, "u1")).items():
            _memory_with(verb)  # what MPI and the interpreter need for it, they have then
            more = _memory_with(verb)
            HostRoom.forget()  # what the first rank keeps for the next call
            forget()  # and each, of results
            more -= _memory_with(bool)
            if rank == 0:
                print(f"{name}: {more / LARGE:.2f} objects")


def _memory_with(verb: Callable[[], Any]) -> int:
    """Return the PSS of all ranks together, in bytes, when they have read what the verb returns."""
    got = verb()
    for part in got if isinstance(got, list) else [got]:
        if isinstance(part, np.ndarray):
            part.sum()
    comm.Barrier()
    pss: int = psutil.Process().memory_full_info().pss
    total: int = comm.allreduce(pss)
    return total


def calls() -> None:
    """Call each verb with small and large objects, between marks that strace sees."""
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for kind, obj in (("small", np.arange(100.0)), ("large", np.full(LARGE, rank, "u1"))):
            for name, verb in verbs(ex, obj).items():
                comm.Barrier()
                os.access(f"/begin {kind} {name}", 0)
                verb()
                os.access("/end", 0)


if __name__ == "__main__":
    run(globals())
