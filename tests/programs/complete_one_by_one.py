"""Set futures one by one, each when `as_completed` has given the one before."""

from __future__ import annotations

import os
import sys

from fsexchange import Store, as_completed

with Store(sys.argv[1]) as store:
    futures = [store.future() for _ in range(int(sys.argv[2]))]
    waiting = iter(futures)
    next(waiting).set_result(0)
    os.access("/fsexchange-begin", 0)
    given = 0
    for _ in as_completed(futures):
        given += 1
        for future in waiting:
            future.set_result(0)
            break
    os.access("/fsexchange-end", 0)
    assert given == len(futures)
