"""Replace the object of a name again and again, and a signal handler that raises at any moment.

Print how often it raised, how often the name had no object then, and how many objects and
directories are left over.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from fsexchange import Store


class Interrupted(Exception):  # noqa: N818  (it is not an error)
    """Raised by the handler."""


def handler(*_: object) -> None:
    raise Interrupted


def replace() -> None:
    store.put("new", name="state", replace=True)


def change_places() -> None:
    """Have the next object put into another directory, as another process would."""
    writers = store.connector._shared.writers
    if writers.next_name().split("/")[0] == store.names["state"].filename.split("/")[0]:
        writers.renew()


def interrupted(seconds: float) -> bool:
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            replace()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            # CPython up to 3.11 may forget for a while that a handler is due: `take_gil` computes
            # anew whether one is, and a signal in the middle of that is not seen.
            time.sleep(0)
    except Interrupted:
        return True
    return False


path, rounds = Path(sys.argv[1]), int(sys.argv[2])
store = Store(path)
store.put("new", name="state")
times = []
for _ in range(100):
    change_places()
    start = time.perf_counter()
    replace()
    times.append(time.perf_counter() - start)
longest = 1.5 * sorted(times)[50]
signal.signal(signal.SIGALRM, handler)
moments = random.Random(1)
raised = lost = 0
for _ in range(rounds):
    change_places()
    raised += interrupted(moments.uniform(1e-6, longest))
    lost += store.get("state", default="none") != "new"
signal.signal(signal.SIGALRM, signal.SIG_IGN)
folders = [folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != "."]
objects = [name for folder in folders for name in os.listdir(folder) if name != ".process"]
print(raised, lost, len(objects) - 1, len(folders) - 1)
store.close()
