"""Make the system calls of one verb on small objects, and no others, between two marks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from fsexchange import FileConnector, FileKey

store, verb, *texts = sys.argv[1:]
connector = FileConnector(store)
connector.evict_batch(connector.put_batch([b"warm", b"up"]))
keys = [FileKey.parse(text) for text in texts]
connector.get_batch(keys)
verbs: dict[str, Callable[[], object]] = {
    "put_batch": lambda: connector.put_batch([b"new"] * 3000),
    "evict": lambda: connector.evict(keys[0]),
    "evict_batch": lambda: connector.evict_batch(keys[:-1]),
    "evict the last": lambda: connector.evict_batch(keys),
    "close": lambda: connector.close(),
}
os.access("/fsexchange-begin", 0)
verbs[verb]()
os.access("/fsexchange-end", 0)
os._exit(0)
