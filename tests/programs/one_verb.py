"""Make the system calls of one verb, and no others, between two marks.

Options of the connector that are to be true follow the keys.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from fsexchange import FileConnector, FileKey

store, verb, unset, replaced, *options = sys.argv[1:]
flags: dict[str, Any] = dict.fromkeys(options, True)
connector = FileConnector(store, clear=True, **flags)
connector.evict(connector.put(b"warm up"))
key, old = FileKey(unset), FileKey(replaced)
connector.exists(key)
verbs: dict[str, Callable[[], object]] = {
    "put": lambda: connector.put([b"new" * 100, b"new" * 200]),
    "set": lambda: connector.set(key, [b"new" * 100, b"new" * 200]),
    "replace": lambda: connector.set(old, [b"new" * 100, b"new" * 200]),
    "evict": lambda: connector.evict(old),
    "close": lambda: connector.close(clear=True),
}
os.access("/fsexchange-begin", 0)
verbs[verb]()
os.access("/fsexchange-end", 0)
os._exit(0)
