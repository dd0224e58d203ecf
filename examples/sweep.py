"""Run a parameter sweep over MPI ranks: broadcast the data, scatter parameters, gather results.

mpirun -n 4 python -m mpi4py examples/sweep.py

Which sun shows a landscape best? Tries 288 of them on a real elevation model.
"""

from itertools import product

import numpy as np
from elevation import hillshade, load_elevation

from fsexchange.mpi import Exchange


def contrast(model, azimuth, altitude):
    """Tell how far the light on the land spreads: its standard deviation."""
    return hillshade(*model, azimuth, altitude).std()


with Exchange() as ex:
    suns = list(product(range(0, 360, 10), range(10, 90, 10)))
    # Small objects ride in messages, large ones go through files; the calls are the same.
    model = ex.bcast(load_elevation() if ex.rank == 0 else None)
    mine = ex.scatter([suns[n :: ex.size] for n in range(ex.size)])
    results = ex.gather([(contrast(model, *sun), *sun) for sun in mine])

    if ex.rank == 0:
        found = sorted((row for part in results for row in part), reverse=True)
        print(f"{len(found)} suns, {ex.size} ranks")
        for spread, azimuth, altitude in found[:5]:
            print(f"azimuth {azimuth:3}, altitude {altitude}: contrast {spread:.4f}")
        print(f"mean of all: {np.mean([row[0] for row in found]):.4f}")
