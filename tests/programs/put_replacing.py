"""Replace the object under one name in a kept store, as each of many jobs does."""

from __future__ import annotations

import sys

from fsexchange import Store

with Store(sys.argv[1], clear=False) as store:
    store.put(sys.argv[2], name="state", replace=True)
