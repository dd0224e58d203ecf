"""Send large arrays to the workers of a multiprocessing Pool, and get theirs, without pickling.

python examples/pool_offload.py [MiB]

The tutorial's `pool.map(f, items)`, with and without the line `with offload():` around it.
"""

import contextlib
import sys
import time
from multiprocessing import Pool

import numpy as np

from fsexchange.pools import offload


def f(image: np.ndarray) -> np.ndarray:
    return image * image


if __name__ == "__main__":
    length = int(sys.argv[1] if len(sys.argv) > 1 else 64) << 17
    images = [np.full(length, float(n)) for n in range(4)]
    for how in (contextlib.nullcontext, offload):
        with how(), Pool(2) as pool:
            pool.map(abs, range(2))  # the workers are there
            start = time.perf_counter()
            results = pool.map(f, images)
            seconds = time.perf_counter() - start
        assert [result[-1] for result in results] == [0, 1, 4, 9]
        name = "with offload" if how is offload else "without"
        print(f"{name}: {seconds:.3f} s")
