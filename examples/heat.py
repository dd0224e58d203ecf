"""Solve the heat equation on a grid split among MPI ranks, which exchange halos each step.

mpirun -n 4 python -m mpi4py examples/heat.py heat.png

The grid is a real elevation model: soil creeps down a hillside as heat spreads in a plate. Saves
the land as it is and as it would be.
"""

import sys

import numpy as np
from elevation import load_elevation
from mpi4py import MPI
from pictures import save_side_by_side

from fsexchange.mpi import Exchange

STEPS = 100
NUMBER = 0.2  # diffusivity * time step / spacing**2; stable below 0.25

with Exchange() as ex:
    # Every rank has the whole grid, mapped, and works on its rows and one more on each side.
    land = ex.bcast(load_elevation()[0] if ex.rank == 0 else None)
    first, last = (len(land) * (ex.rank + n) // ex.size for n in (0, 1))
    above, below = first > 0, last < len(land)
    rows = land[first - above : last + below].copy()
    up = ex.rank - 1 if above else MPI.PROC_NULL
    down = ex.rank + 1 if below else MPI.PROC_NULL

    for _ in range(STEPS):
        if above:
            rows[0] = ex.sendrecv(rows[1], up, source=up)
        if below:
            rows[-1] = ex.sendrecv(rows[-2], down, source=down)
        inner = rows[1:-1, 1:-1]
        around = rows[:-2, 1:-1] + rows[2:, 1:-1] + rows[1:-1, :-2] + rows[1:-1, 2:]
        inner += NUMBER * (around - 4 * inner)  # the edge of the land stays as it is

    # Each rank writes its rows into their place of one array, which all could map.
    result = ex.assemble(rows[above : len(rows) - below])
    if ex.rank == 0:
        relief = [np.abs(np.diff(height)).mean() for height in (land, result)]
        print(f"{STEPS} steps: slopes fell from {relief[0]:.2f} to {relief[1]:.2f} m a point")
        save_side_by_side(sys.argv[1] if len(sys.argv) > 1 else "heat.png", land, result)
