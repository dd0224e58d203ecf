"""Make the system calls of each verb between two marks, which name the verb."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import numpy as np

from fsexchange import FileConnector, FileKey, Store

connector = FileConnector(f"{sys.argv[1]}/store")
store = Store(connector)
arrays = store.put_batch([np.arange(3.0)] * 100 + [np.arange(10_000.0)] * 2)
small, large = bytes(1024), bytes(64 << 20)
key: FileKey
middling: FileKey
big: FileKey
shared: FileKey
batch: list[FileKey]
gone = connector.put(small)
connector.evict(gone)
verbs: dict[str, Callable[[], object]] = {
    "put": lambda: connector.put(small),
    "put of pieces": lambda: connector.put([small, small, small]),
    "put of 64 MiB": lambda: connector.put(large),
    "get of 1 KiB": lambda: connector.get(key),
    "get of 64 KiB": lambda: connector.get(middling),
    "get of 64 MiB": lambda: connector.get(big),
    "get of an evicted object": lambda: connector.get(gone),
    "exists": lambda: connector.exists(key),
    "evict": lambda: connector.evict(key),
    "get from a segment": lambda: connector.get(shared),
    "exists in a segment": lambda: connector.exists(shared),
    "evict from a segment": lambda: connector.evict(shared),
    "put_batch of 10,000": lambda: connector.put_batch([small] * 10_000),
    "get_batch of 10,000": lambda: connector.get_batch(batch),
    "evict_batch of 10,000": lambda: connector.evict_batch(batch),
    "get_batch of 100 arrays and 2 of 80 kB": lambda: store.get_batch(arrays),
}
for name, verb in verbs.items():
    for turn in "warm-up", "count":
        key, big = connector.put(small), connector.put(large)
        (shared, _), batch = (connector.put_batch([small] * n) for n in (2, 10_000))
        connector.get_batch([shared, *batch])
        middling = connector.put(bytes(1 << 16))
        os.access(f"/{turn} {name}", 0)
        kept = verb()
        os.access("/end", 0)
        del kept
