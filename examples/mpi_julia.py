"""Draw a Julia set by the tasks of an MPIPoolExecutor, whose large blocks come by files.

mpirun -n 3 python -m mpi4py.futures examples/mpi_julia.py

The set is that of mpi4py's tutorial, in blocks of rows.
"""

import time

import numpy as np
from mpi4py.futures import MPIPoolExecutor

from fsexchange.pools import StoreExecutor

WIDTH, HEIGHT, BLOCKS = 2048, 1536, 12


def julia_block(n: int) -> np.ndarray:
    """Return, for the points of a block of rows, how soon each leaves the circle of radius 3."""
    x = np.linspace(-2, 2, WIDTH)
    y = np.linspace(-1.5, 1.5, HEIGHT).reshape(BLOCKS, -1)[n]
    z = x + 1j * y[:, None]
    image = np.zeros(z.shape, "i8")
    for _ in range(16):
        inside = np.abs(z) < 3
        image += inside
        z = np.where(inside, z * z - 0.8 + 0.156j, z)
    return image


if __name__ == "__main__":
    with MPIPoolExecutor() as executor, StoreExecutor(executor) as store_executor:
        images = []
        for name, each in (("without", executor), ("with StoreExecutor", store_executor)):
            each.submit(abs, 1).result()
            start = time.perf_counter()
            images.append(np.concatenate(list(each.map(julia_block, range(BLOCKS)))))
            print(f"{name}: {time.perf_counter() - start:.3f} s")
        assert np.array_equal(*images)
