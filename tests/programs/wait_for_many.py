"""Wait for futures that have come one by one, of which every other one is set."""

from __future__ import annotations

import os
import pickle
import sys

from fsexchange import Store, wait

with Store(sys.argv[1]) as store:
    futures = [pickle.loads(pickle.dumps(store.future())) for _ in range(int(sys.argv[2]))]
    for future in futures[::2]:
        future.set_result(0)
    os.access("/fsexchange-begin", 0)
    done, not_done = wait(futures, timeout=0.5)
    os.access("/fsexchange-end", 0)
    assert done == set(futures[::2])
    assert not_done == set(futures[1::2])
