"""Fork a child that uses the cache while a thread of the parent holds its lock."""

from __future__ import annotations

import os
import sys

from fsexchange import Store

store = Store(sys.argv[1], cache=1000)
key = store.put(1)
assert store._cache is not None
with store._cache._lock:
    if not (child := os.fork()):
        os._exit(store.get(key) != 1)
assert os.waitpid(child, 0)[1] == 0
