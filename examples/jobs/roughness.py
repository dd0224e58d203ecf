"""Ranks of an MPI job get arrays of a store by name: srun --mpi=pmi2 python -m mpi4py roughness.py

The store is the one at $FSEXCHANGE_STORE, for the Exchange, too.
"""

import numpy as np

from fsexchange import Store
from fsexchange.mpi import Exchange

with Store() as store, Exchange() as ex:
    for name in sorted(store.names):
        mine = store.get(name)[ex.rank :: ex.size]  # all ranks map one file
        total = ex.allreduce(np.abs(np.diff(mine)).sum())
        if ex.rank == 0:
            print(f"{name}: steps add up to {total:.1f}, as {ex.size} ranks found", flush=True)
