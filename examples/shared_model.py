"""Share one large table with all MPI ranks of each host, and assemble what they compute of it.

mpirun -n 4 python -m mpi4py examples/shared_model.py [MiB]

Rank 0 makes the table, every rank looks its own points up in it, and all get the results of all.
Prints the memory of all ranks by an Exchange and by mpi4py's own verbs: PSS counts a page that
several processes share once in all.
"""

import sys

import numpy as np
from mpi4py import MPI

from fsexchange.mpi import Exchange

POINTS = 2_000_000  # of all ranks


def make_table(nbytes: int) -> np.ndarray:
    """Return beams as an instrument's model has them: the response at each frequency and angle."""
    angle = np.linspace(0, np.pi / 2, nbytes // 8 // 256)
    return np.cos(angle) ** np.linspace(1, 8, 256)[:, None]


def responses(table: np.ndarray, rank: int, size: int) -> np.ndarray:
    """Return the response at this rank's share of the points, one row a point: angle, response."""
    angle = np.linspace(0, np.pi / 2, POINTS)[POINTS * rank // size : POINTS * (rank + 1) // size]
    frequency = np.arange(len(angle)) * 7 % len(table)
    column = (angle / (np.pi / 2) * (table.shape[1] - 1)).astype(int)
    return np.column_stack([angle, table[frequency, column]])


def pss() -> int:
    """Return this process's share of memory in bytes: proc(5), smaps_rollup."""
    with open("/proc/self/smaps_rollup") as lines:
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measured(comm, assemble) -> tuple[float, int]:
    """Return a check of the result, and by how much the memory of all ranks has grown."""
    before = comm.allreduce(pss())
    table = comm.bcast(make_table(nbytes) if comm.rank == 0 else None)
    result = assemble(responses(table, comm.rank, comm.size))
    check = float(table.sum() + result.sum())  # every rank reads all of both
    comm.Barrier()
    return check, comm.allreduce(pss()) - before


if __name__ == "__main__":
    nbytes = int(sys.argv[1] if len(sys.argv) > 1 else 256) << 20
    with Exchange() as ex:
        ours, memory = measured(ex, ex.assemble)
    comm = MPI.COMM_WORLD
    theirs, more = measured(comm, lambda part: np.concatenate(comm.allgather(part)))
    assert ours == theirs
    if comm.rank == 0:
        print(f"by Exchange: {comm.size} ranks hold {memory / nbytes:.2f} times the table")
        print(f"by mpi4py: {comm.size} ranks hold {more / nbytes:.2f} times the table")
