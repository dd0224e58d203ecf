"""One round of one way to exchange objects: the time and the memory of its verbs."""

import gc
import mmap
import time

import numpy as np

from .plan import BATCH_WORKS, WORKS


def total(obj):
    """Add up all arrays of an object, so that all their pages are read."""
    if isinstance(obj, dict):
        for value in obj.values():
            total(value)
    elif isinstance(obj, bytes | mmap.mmap):
        np.frombuffer(obj).sum()
    elif hasattr(obj, "sum"):
        obj.sum()


def once(way, obj, times, read=total):
    """Return the seconds of each work with `times` objects, one at a time; `read` reads the pages.

    The clock is read around loops, not around each call: to read it takes too long beside a get of
    4 us. A first put and a first get are not counted, so that one get of a large object finds the
    processor's caches as warm as 200 gets of small objects do, and no way pays for what the one
    before has left: after 40 gets of pyarrow tables by pickle a first dump takes 200 us longer.
    """
    clock = time.perf_counter
    way.evict(way.put(obj))
    start = clock()
    keys = [way.put(obj) for _ in range(times)]
    put = clock() - start
    way.get(keys[0])
    start = clock()
    got = [way.get(key) for key in keys]
    get = clock() - start
    for each in got:
        read(each)
    get_and_read = clock() - start
    del got, each
    start = clock()
    for key in keys:
        way.evict(key)
    evict = clock() - start
    seconds = [put, get, get_and_read, evict]
    return {work: value / times for work, value in zip(WORKS, seconds, strict=True)}


def once_batch(way, batch):
    """Return the seconds of each work with all objects in one call."""
    clock = time.perf_counter
    start = clock()
    keys = way.put_batch(batch)
    put = clock() - start
    start = clock()
    got = way.get_batch(keys)
    get = clock() - start
    del got
    start = clock()
    way.evict_batch(keys)
    return dict(zip(BATCH_WORKS, [put, get, clock() - start], strict=True))


def peak_memory():
    """Return the peak of this process's memory since `forget_peak`, in bytes: proc(5)."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def weigh(way, obj):
    """Return by how much a put, and a get whose result is not read, raise the peak memory."""
    gc.collect()
    forget_peak()
    before = peak_memory()
    key = way.put(obj)
    put = peak_memory() - before
    forget_peak()
    before = peak_memory()
    got = way.get(key)
    get = peak_memory() - before
    del got
    way.evict(key)
    return {"put": put, "get": get}
