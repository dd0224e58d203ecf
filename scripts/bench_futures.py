"""Futures of fsexchange and of ProxyStore in turn: latency from set to result, CPU of a waiter."""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import uuid

from proxystore.connectors.file import FileConnector as TheirConnector
from proxystore.store import Store as TheirStore
from rich.console import Console
from rich.table import Table

from benchmarks.machine import kind_of
from fsexchange import Store

# Seconds for which the waiter waits until the result is set, and the number of measurements.
PAUSES = {0.001: 20, 0.05: 20, 0.3: 10, 1.5: 5}


def set_all(futures, pause, pipe):
    """Set each future, in another process, `pause` seconds after its waiter starts to wait."""
    for future in futures:
        pipe.recv()
        time.sleep(pause)
        future.set_result(time.time())


def measure(make, pause, times):
    """Return the median seconds from set to result, and the waiter's CPU seconds per second."""
    context = multiprocessing.get_context("spawn")
    futures = [make() for _ in range(times)]
    ours, theirs = context.Pipe()
    setter = context.Process(target=set_all, args=(futures, pause, theirs))
    setter.start()
    latencies = []
    wall = cpu = 0.0
    for future in futures:
        ours.send("waiting")
        start, start_cpu = time.perf_counter(), time.thread_time()
        latencies.append(-(future.result() - time.time()))
        wall += time.perf_counter() - start
        cpu += time.thread_time() - start_cpu
    setter.join()
    return statistics.median(latencies), cpu / wall


def main(bases):
    table = Table(
        "file system", "set after", "fsexchange", "ProxyStore", "ratio", "CPU, ours", "theirs"
    )
    for column in table.columns:
        column.justify = "right"
    for base in bases:
        with tempfile.TemporaryDirectory(dir=base) as folder:
            store = Store(f"{folder}/ours")
            peer = TheirStore(str(uuid.uuid4()), TheirConnector(f"{folder}/theirs"), register=True)
            for pause, times in PAUSES.items():
                us, our_cpu = measure(store.future, pause, times)
                them, their_cpu = measure(peer.future, pause, times)
                table.add_row(
                    kind_of(folder),
                    f"{pause:g} s",
                    f"{1e3 * us:.2f} ms",
                    f"{1e3 * them:.2f} ms",
                    f"{them / us:.0f}",
                    f"{our_cpu:.2%}",
                    f"{their_cpu:.2%}",
                )
            peer.close()
            store.close()
    Console(width=100).print(table)
    print(f"{os.cpu_count()} cores; medians")


if __name__ == "__main__":
    main(sys.argv[1:])
