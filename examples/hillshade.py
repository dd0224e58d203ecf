"""Share one large array among all ranks of an mpirun job, and gather what each makes of it.

mpirun -n 4 python -m mpi4py examples/hillshade.py hillshade.png
"""

import pickle
import resource
import sys
import time

import numpy as np
from elevation import hillshade, load_elevation
from pictures import save_picture, show_table

from fsexchange.mpi import Exchange

with Exchange() as ex:
    model = load_elevation() if ex.rank == 0 else None
    ex.barrier()
    start = time.perf_counter()
    # Written once by rank 0, mapped by all; only the key goes through MPI.
    key = ex.bcast_key(ex.put(model) if ex.rank == 0 else None)
    height, dx, dy = ex.get(key)

    # The slope at the edge of a rank's rows needs the row beyond it.
    first, last = (len(height) * (ex.rank + n) // ex.size for n in (0, 1))
    top, bottom = max(first - 1, 0), last + 1
    light = hillshade(height[top:bottom], dx, dy)[first - top : last - top]

    part = ex.put(light)
    parts = ex.gather_keys(part)
    if ex.rank == 0:
        light = np.concatenate(ex.store.get_batch(parts))

    seconds = time.perf_counter() - start
    files = key.nbytes + sum(k.nbytes for k in parts or [part])  # written or mapped
    messages = len(pickle.dumps(key)) * (ex.size + 1 if parts else 2)  # keys sent or received
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = ex.gather((ex.rank, last - first, files, messages, seconds, memory))
    if ex.rank == 0:
        show_table(rows)
        save_picture(sys.argv[1] if len(sys.argv) > 1 else "hillshade.png", height, light)
