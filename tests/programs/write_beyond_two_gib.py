"""Write more than 2 GiB from one buffer and from two, and read them back."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from fsexchange.filesystem import files

path = sys.argv[1]
size = (2 << 30) + (1 << 20) + 1
big = np.zeros(size, np.uint8)  # takes no memory until written to
big[0], big[0x7FFFF000], big[-1] = 1, 2, 3
cases: list[tuple[Any, bool]] = [(big, False), ([big[: 1 << 30], big[1 << 30 :]], True)]
for obj, mappable in cases:
    pieces, nbytes = files.flatten(obj)
    files.create(path, pieces, nbytes)
    got = memoryview(files.read(path, size, mappable=mappable))
    assert got.nbytes == size == os.stat(path).st_size
    assert (got[0], got[0x7FFFF000], got[-1]) == (1, 2, 3)
    assert np.count_nonzero(got[-(2 << 20) :]) == 2
    del got
    os.unlink(path)
