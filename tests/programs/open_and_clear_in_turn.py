"""Open a store, put, get and clear it, again and again, as other processes do; print what was lost.

A connector that is told that its store is gone opens another.
"""

from __future__ import annotations

import sys
import time

from fsexchange import FileConnector, StoreClosedError

path, seconds = sys.argv[1], float(sys.argv[2])
lost = cycles = 0
deadline = time.monotonic() + seconds
while time.monotonic() < deadline:
    connector = FileConnector(path)
    try:
        key = connector.put(b"content")
        lost += connector.get(key) != b"content"
    except StoreClosedError:
        pass
    connector.close(clear=True)
    cycles += 1
print(cycles, lost)
