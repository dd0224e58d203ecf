"""Read one array, written by any number of MPI ranks, split another way: see write_blocks.py.

mpirun -n 3 python -m mpi4py examples/read_blocks.py /scratch/me/store
"""

import sys

from fsexchange.mpi import Exchange

with Exchange(store_dir=sys.argv[1]) as ex:
    grid = ex.get("grid")  # mapped where the file system can: only what is used is read
    first, last = (grid.shape[1] * (ex.rank + n) // ex.size for n in (0, 1))
    mine = grid[:, first:last]
    report = ex.gather(f"rank {ex.rank}: columns {first} to {last - 1}, mean {mine.mean():.1f}")
    if ex.rank == 0:
        print("\n".join(report))
    ex.barrier()
    if ex.rank == 0:
        ex.connector.close(clear=True)  # the store was kept for us, and is not needed any more
