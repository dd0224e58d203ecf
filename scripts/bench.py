"""Put, get and evict of fsexchange, its peers and bare system calls in turn, in one run.

Prints tables, writes bench.json and bench.png. See scripts/bench for how it is started.
"""

import argparse
import gc
import json
import mmap
import os
import platform
import statistics
import sys
import tempfile
import time
import uuid
from multiprocessing import shared_memory

import joblib
import numpy as np
import pandas as pd
import proxystore
from proxystore.connectors.file import FileConnector as TheirConnector
from proxystore.store import Store as TheirStore
from rich.console import Console
from rich.table import Table

from fsexchange import Store
from fsexchange.filesystem import find_filesystem

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SIZES = [0, KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB, GIB]
QUICK_SIZES = [0, KIB, MIB, 64 * MIB]


class Ours:
    """fsexchange's Store."""

    name = "fsexchange"

    def __init__(self, folder):
        self.store = Store(f"{folder}/ours")
        self.put, self.get, self.evict = self.store.put, self.store.get, self.store.evict
        self.put_batch, self.get_batch = self.store.put_batch, self.store.get_batch
        self.close = self.store.close


class ProxyStore:
    """ProxyStore's Store over its FileConnector, without its cache."""

    name = "ProxyStore"

    def __init__(self, folder):
        connector = TheirConnector(f"{folder}/theirs")
        self.store = TheirStore(str(uuid.uuid4()), connector, cache_size=0, register=True)
        self.put, self.get, self.evict = self.store.put, self.store.get, self.store.evict
        self.put_batch = self.store.put_batch
        self.close = self.store.close

    def get_batch(self, keys):
        return [self.store.get(key) for key in keys]  # its Store has none


class Files:
    """One file an object, named as the peer's user would have to."""

    def __init__(self, folder):
        self.prefix = f"{folder}/{self.name.replace('.', '-')}-"
        self.count = 0

    def next(self):
        self.count += 1
        return f"{self.prefix}{self.count}.npy"

    def evict(self, path):
        os.unlink(path)

    def close(self):
        pass


class Numpy(Files):
    """numpy.save and numpy.load, mapped copy-on-write."""

    name = "numpy"

    def put(self, array):
        path = self.next()
        np.save(path, array)
        return path

    def get(self, path):
        return np.load(path, mmap_mode="c" if os.path.getsize(path) > 128 else None)


class Joblib(Files):
    """joblib.dump and joblib.load, mapped copy-on-write."""

    name = "joblib"

    def put(self, obj):
        path = self.next()
        joblib.dump(obj, path)
        return path

    def get(self, path):
        return joblib.load(path, mmap_mode="c")


class SharedMemory:
    """multiprocessing.shared_memory, whose user keeps shape and dtype elsewhere."""

    name = "shared_memory"

    def __init__(self, folder):
        self.close = lambda: None

    def put(self, array):
        block = shared_memory.SharedMemory(create=True, size=max(1, array.nbytes))
        np.ndarray(array.shape, array.dtype, buffer=block.buf)[:] = array
        return block

    def get(self, block):
        again = shared_memory.SharedMemory(block.name)
        self.opened = again
        return np.ndarray(block.size // 8, "f8", buffer=again.buf)

    def evict(self, block):
        self.opened.close()
        block.close()
        block.unlink()


class Bare(Files):
    """The system calls that cannot be less: open, writev, close; open, read or mmap; unlink."""

    name = "bare calls"

    def put(self, array):
        path = self.next()
        data = array.data.cast("B") if array.nbytes else b""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        done = os.writev(fd, [data])
        while done < len(data):
            done += os.write(fd, data[done:])
        os.close(fd)
        return path

    def get(self, path):
        fd = os.open(path, os.O_RDONLY)
        nbytes = os.fstat(fd).st_size
        if nbytes < MIB:
            data = os.read(fd, nbytes)
        else:
            data = mmap.mmap(fd, nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        os.close(fd)
        return np.frombuffer(data)


ARRAYS = [Ours, ProxyStore, Numpy, Joblib, SharedMemory, Bare]
OBJECTS = [Ours, ProxyStore, Joblib]


def objects(nbytes):
    """Return what is exchanged besides plain arrays, of about `nbytes`."""
    n = nbytes // 32
    columns = {name: np.arange(n) * 1.5 for name in "abcd"}
    return {"dict of arrays": columns, "DataFrame": pd.DataFrame(columns)}


def touch(obj):
    """Read every page of what was got."""
    if isinstance(obj, np.ndarray):
        obj.view(np.uint8)[::4096].sum()
    else:
        for name in obj:
            touch(np.asarray(obj[name]))


def peak_memory():
    """Return the most memory that this process has had since `forget_peak`, in bytes: proc(5)."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def once(way, obj, times):
    """Return the seconds of each work with `times` objects, one at a time."""
    clock = time.perf_counter
    start = clock()
    keys = [way.put(obj) for _ in range(times)]
    put = clock()
    gets, touches = 0.0, 0.0
    evicts = 0.0
    for key in keys:
        a = clock()
        got = way.get(key)
        b = clock()
        touch(got)
        c = clock()
        del got
        d = clock()
        way.evict(key)
        gets, touches, evicts = gets + b - a, touches + c - a, evicts + clock() - d
    seconds = {"put": put - start, "get": gets, "get, read": touches, "evict": evicts}
    return {work: value / times for work, value in seconds.items()}


def memory(way, obj):
    """Return how much memory one put, and one get without a look at it, take at their peak."""
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


def compare(ways, obj, nbytes, rounds):
    """Return for each way and work the seconds of each round; the ways take turns."""
    times = max(1, min(200, int(64 * MIB / max(1, nbytes))))
    for way in ways:
        once(way, obj, min(times, 3))
    found = {way.name: {} for way in ways}
    for _ in range(rounds):
        for way in ways:
            gc.collect()
            for work, seconds in once(way, obj, times).items():
                found[way.name].setdefault(work, []).append(seconds)
    for way in ways:
        found[way.name]["memory"] = memory(way, obj)
    return found


def compare_batches(ways, rounds):
    """10,000 objects of 1 KiB in one call."""
    batch = [np.full(128, n, "f8") for n in range(10_000)]
    found = {way.name: {"put_batch": [], "get_batch": []} for way in ways}
    for _ in range(rounds):
        for way in ways:
            start = time.perf_counter()
            keys = way.put_batch(batch)
            middle = time.perf_counter()
            got = way.get_batch(keys)
            end = time.perf_counter()
            assert got[-1][0] == 9_999
            found[way.name]["put_batch"].append(middle - start)
            found[way.name]["get_batch"].append(end - middle)
            for key in keys:
                way.evict(key)
    return found


def among_many(way, live=100_000, some=1_000):
    """Return how much longer a work takes among many live objects than among few."""
    obj = np.ones(128)
    first = statistics.median(once(way, obj, 1)["put"] for _ in range(some))
    works = {"put": [], "get": [], "evict": []}
    few = [once(way, obj, 1) for _ in range(some)]
    keys = [way.put(obj) for _ in range(live)]
    many = [once(way, obj, 1) for _ in range(some)]
    for key in keys:
        way.evict(key)
    assert first > 0
    return {
        work: statistics.median(s[work] for s in many) / statistics.median(s[work] for s in few)
        for work in works
    }


def ratio(theirs, ours):
    """Return the median over the rounds of how many times as long they took."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def words(nbytes):
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if nbytes >= unit:
            return f"{nbytes // unit} {name}"
    return f"{nbytes} B"


def micro(seconds):
    return f"{1e6 * seconds:,.0f}" if seconds >= 1e-5 else f"{1e6 * seconds:.1f}"


def show(console, kind, results):
    """Print for each work a row a size: our time and spread, and the ratio to each other way."""
    for work in ("put", "get", "get, read", "evict"):
        table = Table(title=f"{work}, {kind}: microseconds; how many times as long as fsexchange")
        names = [way.name for way in ARRAYS]
        for column in ("object", names[0], "spread", *names[1:]):
            table.add_column(column, justify="right")
        for label, found in results:
            ours = found[names[0]][work]
            low, *_, high = statistics.quantiles(ours, n=4)
            cells = [f"{1e6 * statistics.median(ours):,.1f}", f"±{(high - low) / 2e-6:,.1f}"]
            for name in names[1:]:
                cells.append(f"{ratio(found[name][work], ours):.2f}" if name in found else "")
            table.add_row(label, *cells)
        console.print(table)
    table = Table(title=f"peak memory of one put and one get, {kind}: bytes")
    for column in ("object", "work", *[way.name for way in ARRAYS]):
        table.add_column(column, justify="right")
    for label, found in results:
        for work in ("put", "get"):
            cells = [
                words(found[w.name]["memory"][work]) if w.name in found else "" for w in ARRAYS
            ]
            table.add_row(label, work, *cells)
    console.print(table)


def draw(path, everything, sizes):
    """Draw seconds over bytes, a panel for each work and file system."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    works = ["put", "get", "get, read", "evict"]
    figure, axes = pyplot.subplots(
        len(everything), len(works), figsize=(16, 4.2 * len(everything)), squeeze=False
    )
    for row, (kind, results) in zip(axes, everything.items(), strict=True):
        arrays = dict(results["objects"])
        for panel, work in zip(row, works, strict=True):
            for way in ARRAYS:
                points = [
                    (nbytes or 100, statistics.median(arrays[words(nbytes)][way.name][work]))
                    for nbytes in sizes
                ]
                bold = {"linewidth": 2.5, "zorder": 3} if way is Ours else {"alpha": 0.8}
                line = "k:" if way is Bare else "o-"
                panel.plot(*zip(*points, strict=True), line, markersize=4, label=way.name, **bold)
            panel.set(xscale="log", yscale="log", title=f"{work} ({kind})", xlabel="bytes")
            panel.grid(alpha=0.3)
        row[0].set_ylabel("seconds")
        row[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Put, get and evict of fsexchange, its peers and bare system calls in turn.",
    )
    parser.add_argument("directory", nargs="*", help="where to put files (/dev/shm)")
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds: a minute")
    parser.add_argument("--rounds", type=int, help="rounds of each (15; quick: 5)")
    parser.add_argument("--output", default="bench", help="writes OUTPUT.json and .png (bench)")
    options = parser.parse_args()
    rounds = options.rounds or (5 if options.quick else 15)
    sizes = QUICK_SIZES if options.quick else SIZES
    console = Console(width=130)
    everything = {}
    for base in options.directory or ["/dev/shm"]:
        with tempfile.TemporaryDirectory(dir=base) as folder:
            kind = find_filesystem(folder).kind
            ways = [way(folder) for way in ARRAYS]
            general = [way for way in ways if type(way) in OBJECTS]
            results = []
            for nbytes in sizes:
                obj = np.ones(nbytes // 8)
                n = rounds if nbytes < 64 * MIB else max(3, rounds // 3)
                results.append((words(nbytes), compare(ways, obj, nbytes, n)))
            for nbytes in (KIB, MIB) if options.quick else (KIB, MIB, 64 * MIB):
                for label, obj in objects(nbytes).items():
                    found = compare(general, obj, nbytes, rounds)
                    results.append((f"{words(nbytes)} {label}", found))
            batches = compare_batches(general[:2], 3)
            show(console, kind, results)
            table = Table(title=f"10,000 objects of 1 KiB, {kind}: milliseconds")
            for column in ("work", "fsexchange", "ProxyStore", "ratio"):
                table.add_column(column, justify="right")
            for work in ("put_batch", "get_batch"):
                ours, theirs = (batches[way.name][work] for way in general[:2])
                medians = [f"{1e3 * statistics.median(t):.1f}" for t in (ours, theirs)]
                table.add_row(work, *medians, f"{ratio(theirs, ours):.1f}")
            console.print(table)
            many = {} if options.quick else among_many(ways[0])
            for work, factor in many.items():
                console.print(f"{work} among 100,000 live objects: {factor:.2f} times as among few")
            for way in ways:
                way.close()
            everything[kind] = {"objects": results, "batches": batches, "among many": many}
    machine = {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "proxystore": proxystore.__version__,
        "joblib": joblib.__version__,
    }
    with open(f"{options.output}.json", "w") as file:
        json.dump({"machine": machine, "seconds": everything}, file, indent=1)
    draw(f"{options.output}.png", everything, sizes)
    console.print(f"{machine}\nwrote {options.output}.json and {options.output}.png")


if __name__ == "__main__":
    sys.exit(main())
