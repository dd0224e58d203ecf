"""Get an object by its name, and name another."""

from __future__ import annotations

import sys

from fsexchange import Store

store = Store(sys.argv[1])
assert store.get("from parent") == {"made": "here"}
store.put([1, 2], name="from child")
