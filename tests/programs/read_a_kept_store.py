"""Print the names of a store, and the sum of an array in it."""

from __future__ import annotations

import sys

from fsexchange import Store

with Store(sys.argv[1]) as store:
    print(sorted(store.names), store.get("mesh/coarse").sum())
