"""An Exchange over ranks of which some were spawned by the others: `spawned.py DIRECTORY`."""

from __future__ import annotations

import sys

import numpy as np
from mpi4py import MPI

from fsexchange.mpi import Exchange

SPAWNED = 2


def use(comm: MPI.Intracomm) -> None:
    """Exchange objects, small and large, of spawned ranks and others."""
    with Exchange(comm, sys.argv[1]) as ex:
        large = np.full(1 << 21, float(ex.rank))
        for obj in ex.rank, large:
            everybodys = ex.allgather(obj)
            assert [float(np.mean(one)) for one in everybodys] == list(range(ex.size))
            last = ex.size - 1
            assert np.array_equal(ex.bcast(obj, last), everybodys[last])
            left = (ex.rank - 1) % ex.size
            received = ex.sendrecv(obj, (ex.rank + 1) % ex.size, source=left)
            assert np.array_equal(received, everybodys[left])


if __name__ == "__main__":
    parent = MPI.Comm.Get_parent()
    if parent != MPI.COMM_NULL:
        merged = parent.Merge(high=True)
        use(merged)
        merged.Free()
        parent.Disconnect()
    else:
        words = ["-W", "error", "-m", "tests.ranks.spawned", sys.argv[1]]
        children = MPI.COMM_SELF.Spawn(sys.executable, words, SPAWNED)
        merged = children.Merge(high=False)
        assert merged.size == 1 + SPAWNED
        use(merged)
        merged.Free()
        children.Disconnect()
        print("passed")
