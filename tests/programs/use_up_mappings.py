"""Map a file more often than the kernel allows: the rest is read into memory."""

from __future__ import annotations

import sys
from pathlib import Path

from fsexchange.filesystem import files

path, limit = sys.argv[1], int(sys.argv[2])


def mappings() -> int:
    return sum(path in line for line in Path("/proc/self/maps").read_text().splitlines())


most = limit * 3 // 4
views = [memoryview(files.read(path)) for _ in range(most + 20)]
assert mappings() == most
assert all(view[-1] == 1 for view in views[-30:])
views[-1][0] = 2
views.clear()
views = [memoryview(files.read(path)) for _ in range(20)]
assert mappings() == 20
