"""Use a cached store in the handler of a signal that comes all the time, and that may raise."""

from __future__ import annotations

import random
import signal
import sys
import time
from types import FrameType

from fsexchange import MissingObjectError, Store


class Interrupted(Exception):  # noqa: N818  (as KeyboardInterrupt)
    """Raised by the handler, at any line."""


store = Store(sys.argv[1], cache=2_000)
cache = store._cache
assert cache is not None
keys = [store.put(bytes([n]) * 10 * n) for n in range(30)]
stored = {key: bytes(store.connector.get(key) or b"") for key in keys}
fleeting = [store.put(n) for n in range(200)]
evicted: set[int] = set()
calls = raised = 0
may_raise = False


def use(n: int) -> None:
    assert store.get(keys[n % 30]) == bytes([n % 30]) * 10 * (n % 30)
    number = n % len(fleeting)
    if n % 7 == 0:
        store.evict(fleeting[number])
        evicted.add(number)
    elif number in evicted:
        try:
            raise AssertionError(store.get(fleeting[number]))
        except MissingObjectError:
            pass


def next_signal() -> None:
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 3e-4))


def handle(signum: int, frame: FrameType | None) -> None:
    global calls, raised, may_raise
    calls += 1
    use(random.randrange(10_000))
    next_signal()
    if may_raise and calls % 10 == 0:
        raised += 1
        may_raise = False
        raise Interrupted


signal.signal(signal.SIGALRM, handle)
stop = time.monotonic() + float(sys.argv[2])
while time.monotonic() < stop:
    next_signal()
    try:
        may_raise = True
        # Of the cache alone, so that most signals come in the middle of it.
        for _ in range(100):
            key = random.choice(keys)
            cache.put(key, stored[key])
            cache.discard(key)
            cache.put(key, stored[key])
            cache.get(key)
        may_raise = False
    except Interrupted:
        pass
signal.signal(signal.SIGALRM, signal.SIG_IGN)
for key in keys:
    store.get(key)
assert cache._nbytes == sum(map(len, cache._kept.values())) <= cache.limit
assert bytes(cache.get(keys[-1]) or b"") == stored[keys[-1]]  # it still keeps what is read
assert not cache._unwanted
assert calls > 100, calls
assert raised > 10, raised
store.close()
