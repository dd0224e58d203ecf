"""Add callbacks while a signal comes all the time, whose handler does the same."""

from __future__ import annotations

import random
import signal
import sys
import time
from types import FrameType

from fsexchange import Future, Store

added = 0
called: list[Future[int]] = []


def add() -> None:
    global added
    future = store.future()
    future.add_done_callback(called.append)
    added += 1
    future.set_result(1)


def handle(signum: int, frame: FrameType | None) -> None:
    add()
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 1e-3))


store = Store(sys.argv[1])
signal.signal(signal.SIGALRM, handle)
handle(0, None)
stop = time.monotonic() + 4
future: Future[int]
while time.monotonic() < stop:
    add()
signal.signal(signal.SIGALRM, signal.SIG_IGN)
store.close()
assert len(called) == added > 100, (len(called), added)
