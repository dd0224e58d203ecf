"""Make a default store with an object, print where it is, and wait to be terminated."""

from __future__ import annotations

import time

from fsexchange import Store

store = Store()
store.put(bytes(1 << 20))
print(store.connector.store_dir, flush=True)
time.sleep(600)
