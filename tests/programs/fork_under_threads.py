"""Fork children that put and get while threads of the parent put and get."""

from __future__ import annotations

import os
import sys
import threading
import warnings

from fsexchange import Store

warnings.simplefilter("ignore", DeprecationWarning)  # fork in a thread is the point here
store = Store(sys.argv[1], cache=1 << 20)
stop = threading.Event()
wrong: list[int] = []


def work(n: int) -> None:
    while not stop.is_set():
        if store.get(store.put([n] * 100)) != [n] * 100:
            wrong.append(n)


# Daemons, or a child that fails would leave the program waiting for them.
threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(4)]
for thread in threads:
    thread.start()
for n in range(30):
    if not os.fork():
        os._exit(store.get(store.put({"child": n})) != {"child": n})
    assert os.wait()[1] == 0
stop.set()
for thread in threads:
    thread.join()
assert not wrong
