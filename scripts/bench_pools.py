"""Tasks of pools, bare and with their data by files, in turn: seconds, and memory of the workers.

"shared": 64 tasks share one array of 64 MiB, nested in a dict, and return 1 MiB each. "results":
`map` of 4 tasks that return 64 MiB each. "small": 10,000 tasks of 100 bytes; the figure is
microseconds a task. Memory is that of all workers (PSS) at its most, over 64 MiB, in the round in
which it was least: later, forked workers also share what this process has kept.
"""

import argparse
import os
import statistics
import threading
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Pool

import joblib
import numpy as np
import psutil
from proxystore.connectors.file import FileConnector
from proxystore.store import Store
from proxystore.store.executor import ProxyType
from proxystore.store.executor import StoreExecutor as TheirExecutor
from rich.console import Console
from rich.table import Table

import fsexchange.pools
from fsexchange.pools import StoreExecutor, offload

WORKERS = 2
ARRAY = 8 << 20  # elements: 64 MiB


def shared(nested, n):
    return nested["array"][: 1 << 17] + n


def result(n):
    return np.full(ARRAY, n, "f8")


def small(data):
    return data


def work_shared(executor):
    nested = {"array": np.ones(ARRAY), "name": "nested"}
    futures = [executor.submit(shared, nested, n) for n in range(64)]
    for n, future in enumerate(futures):
        assert future.result()[0] == 1 + n


def work_results(executor):
    for n, array in enumerate(executor.map(result, range(4))):
        assert array[-1] == n


def work_small(executor):
    data = b"x" * 100
    for future in [executor.submit(small, data) for _ in range(10_000)]:
        future.result()


WORKS = {"shared": work_shared, "results": work_results, "small": work_small}


class Bare:
    def __enter__(self):
        self.pool = ProcessPoolExecutor(WORKERS)
        return self.pool

    def __exit__(self, *_):
        self.pool.shutdown()


class Ours(Bare):
    def __enter__(self):
        self.ours = StoreExecutor(super().__enter__())
        return self.ours

    def __exit__(self, *_):
        self.ours.shutdown()
        super().__exit__()


class Theirs(Bare):
    def __enter__(self):
        folder = f"/dev/shm/bench-pools-{uuid.uuid4()}"
        store = Store(folder, FileConnector(folder), register=True)
        pool = super().__enter__()
        self.theirs = TheirExecutor(pool, store, ProxyType(np.ndarray))
        return self.theirs

    def __exit__(self, *_):
        self.theirs.shutdown()


class Joblib:
    """As an executor, of which a call is one of `Parallel`."""

    backend = "loky"

    def __enter__(self):
        self.calls = []
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *args):
        self.calls.append(joblib.delayed(function)(*args))
        return Later(self, len(self.calls) - 1)

    def map(self, function, items):
        return self.run([joblib.delayed(function)(item) for item in items])

    def run(self, calls):
        with joblib.parallel_config(backend=self.backend, n_jobs=WORKERS):
            return joblib.Parallel()(calls)


class Later:
    def __init__(self, calls, n):
        self.calls, self.n = calls, n

    def result(self):
        if not hasattr(self.calls, "results"):
            self.calls.results = self.calls.run(self.calls.calls)
        return self.calls.results[self.n]


class OurJoblib(Joblib):
    backend = "fsexchange"


class Multiprocessing:
    def __enter__(self):
        self.pool = Pool(WORKERS)
        return self

    def __exit__(self, *_):
        self.pool.terminate()
        self.pool.join()

    def submit(self, function, *args):
        later = self.pool.apply_async(function, args)
        later.result = later.get
        return later

    def map(self, function, items):
        return self.pool.map(function, items, 1)


class Offloaded(Multiprocessing):
    def __enter__(self):
        self.offloading = offload()
        self.offloading.__enter__()
        return super().__enter__()

    def __exit__(self, *_):
        super().__exit__()
        self.offloading.__exit__(None, None, None)


# Each engine bare, with ours, and with its peers.
WAYS = {
    "ProcessPoolExecutor": Bare,
    "  StoreExecutor": Ours,
    "  ProxyStore's StoreExecutor": Theirs,
    "joblib (memmapping)": Joblib,
    '  backend "fsexchange"': OurJoblib,
    "multiprocessing.Pool": Multiprocessing,
    "  offload()": Offloaded,
}


def measure(way, work):
    """Return the seconds, and the most bytes of all workers, with workers that run already."""
    most = 0
    done = threading.Event()

    def watch():
        nonlocal most
        me = psutil.Process()
        while not done.wait(0.02):
            sizes = []
            for child in me.children(recursive=True):
                try:
                    sizes.append(child.memory_full_info().pss)
                except psutil.Error:
                    pass
            most = max(most, sum(sizes))

    with WAYS[way]() as executor:
        list(executor.map(small, range(4)))
        watcher = threading.Thread(target=watch)
        if work == "shared":
            watcher.start()
        start = time.perf_counter()
        WORKS[work](executor)
        seconds = time.perf_counter() - start
        done.set()
        if watcher.ident:
            watcher.join()
    return seconds, most


def main():
    assert fsexchange.pools
    parser = argparse.ArgumentParser(prog="scripts/bench-pools", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    options = parser.parse_args()
    seconds = {(way, work): [] for way in WAYS for work in WORKS}
    memory = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for work in WORKS:
            for way in WAYS:
                taken, most = measure(way, work)
                seconds[way, work].append(taken)
                if work == "shared":
                    memory[way].append(most)
    columns = ["engine"]
    for work in WORKS:
        columns += [work, "times as fast as bare"]
    table = Table(*columns, "memory, shared")
    bare = None
    for way in WAYS:
        bare = bare if way.startswith(" ") else way
        cells = []
        for work in WORKS:
            times = seconds[way, work]
            median = statistics.median(times)
            ratio = statistics.median(
                [one / other for one, other in zip(seconds[bare, work], times, strict=True)]
            )
            cells += [
                f"{1e2 * median:.1f} us" if work == "small" else f"{median:.2f} s",
                "" if way == bare else f"{ratio:.2f}",
            ]
        table.add_row(way, *cells, f"{min(memory[way]) / (8 * ARRAY):.2f}")
    for column in table.columns[1:]:
        column.justify = "right"
    Console(width=150).print(table)
    print(f"{WORKERS} workers, {os.cpu_count()} cores, tmpfs; medians of {options.rounds} rounds")


if __name__ == "__main__":
    main()
