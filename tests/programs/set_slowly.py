"""Set futures, one every 20 ms."""

from __future__ import annotations

import sys
import time

from fsexchange import FileKey, Future, Store

store = Store(sys.argv[1])
for text in sys.argv[2].split(","):
    future: Future[int] = Future(store, FileKey.parse(text))
    future.set_result(0)
    time.sleep(0.02)
