"""Own a store and end without closing it, in one of several ways."""

from __future__ import annotations

import gc
import sys

from fsexchange import FileConnector

path, end = sys.argv[1:]
connector = FileConnector(path)
key = connector.put(b"x")
clone = FileConnector.from_config(connector.config())
match end:
    case "exit":
        sys.exit(3)
    case "raise":
        raise ValueError
    case "delete":
        del connector
    case _:
        assert end == "return"
gc.collect()
assert clone.get(key) == b"x"  # never at garbage collection
