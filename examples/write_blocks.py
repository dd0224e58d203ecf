"""Write one array from many MPI ranks, for later jobs with any number of ranks: N-to-M.

mpirun -n 4 python -m mpi4py examples/write_blocks.py /scratch/me/store

See read_blocks.py, and numpy.load: the file is a .npy.
"""

import sys

import numpy as np

from fsexchange.mpi import Exchange

SHAPE = 6000, 1000

with Exchange(store_dir=sys.argv[1], clear=False) as ex:  # kept when this job ends
    first, last = (SHAPE[0] * (ex.rank + n) // ex.size for n in (0, 1))
    rows = np.arange(first * SHAPE[1], last * SHAPE[1], dtype="f8").reshape(-1, SHAPE[1])

    key = ex.put_blocks(rows)  # each rank writes its rows into their place of one file
    if ex.rank == 0:
        ex.store.names["grid"] = key
        print(f"{ex.size} ranks wrote {key.nbytes} bytes to {ex.connector.path(key)}")
