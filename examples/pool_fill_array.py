"""Fill one large array from the tasks of a pool, which send nothing back.

python examples/pool_fill_array.py [rows]

Paints the Julia set of z^2 + c into one picture: each task writes its rows into the file of the
array, and this process maps it, without a copy.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from fsexchange import Store

STEP = 64


def paint(picture, start) -> None:
    rows, columns = picture.shape
    end = min(start + STEP, rows)
    y, x = np.ogrid[start:end, 0:columns]
    z = (x * 3 / columns - 1.5) + 1j * (y * 3 / rows - 1.5)
    steps = np.zeros(z.shape, picture.dtype)
    for _ in range(60):
        z = np.where(abs(z) < 2, z * z - 0.8 + 0.156j, z)
        steps += abs(z) < 2
    picture[start:end] = steps


if __name__ == "__main__":
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with Store() as store, ProcessPoolExecutor() as pool:
        picture = store.blank((rows, rows), "u1")
        list(pool.map(partial(paint, picture), range(0, rows, STEP)))  # raises what a task raised
        array = picture.seal().get()
    print(f"{array.shape[0]} x {array.shape[1]}: {(array == 60).mean():.4f} never escape")
