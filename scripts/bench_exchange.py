"""Collectives and messages of fsexchange, mpi4py and pkl5 in turn; all pages are read.

In "alltoall of lists" each rank hands out 1,000 arrays of 4 KiB, a list of them to each. The last
columns are no peers. "limit": mpi4py's upper-case verbs, which move bare memory into arrays that
are there already. "all inline" and "all in files": what `inline_limit` decides between.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from contextlib import ExitStack

import mpi4py
import numpy as np
from mpi4py import MPI
from mpi4py.util import pkl5
from rich.console import Console
from rich.table import Table

from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.mpi import Exchange

KIB, MIB = 1 << 10, 1 << 20
LISTS = "alltoall of lists"
SIZES = {
    "bcast": [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB],
    "allgather": [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB],
    "alltoall": [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB],
    LISTS: [1000 * 4 * KIB],
    "send": [KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB],
}
QUICK_SIZES = {
    "bcast": [KIB, 64 * MIB],
    "allgather": [16 * MIB],
    LISTS: [1000 * 4 * KIB],
    "send": [KIB],
}
SECONDS = 0.05  # of each way in each round, about


class Buffers:
    """mpi4py's upper-case verbs, into arrays that are there."""

    def __init__(self, comm, array):
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.one = np.empty_like(array)
        self.all = np.empty((comm.size, *array.shape))

    def bcast(self, array):
        if array is None:
            array = self.one
        self.comm.Bcast(array)
        return array

    def allgather(self, array):
        self.comm.Allgather(array, self.all)
        return list(self.all)


def payload(verb, nbytes, size):
    """Return what a rank sends to another one, or to all."""
    if verb == LISTS:
        return [np.full(512, n, "f8") for n in range(nbytes // (4 * KIB) // size)]
    return np.ones(nbytes // 8)


def call(verb, way, obj):
    """Do it once, as one rank of many, and read a byte of every page of what comes."""
    rank, size = way.rank, way.size
    if verb == "bcast":
        results = [way.bcast(obj if rank == 0 else None)]
    elif verb == "allgather":
        results = way.allgather(obj)
    elif verb in ("alltoall", LISTS):
        results = way.alltoall([obj] * size)
    elif rank == 0:
        way.send(obj, 1)
        results = [way.recv(source=1)]
    elif rank == 1:
        results = [way.recv(source=0)]
        way.send(obj, 0)
    else:
        results = []
    for result in results:
        if isinstance(result, list):
            sum(array[0] for array in result)
        else:
            result.view(np.uint8)[::4096].sum()


def measure(verb, way, obj, times):
    """Return the seconds of one call, on the slowest rank."""
    comm = MPI.COMM_WORLD
    comm.Barrier()
    start = time.perf_counter()
    for _ in range(times):
        call(verb, way, obj)
    seconds = (time.perf_counter() - start) / times
    if verb == "send":  # ranks without a part in it must not take the cores from the others
        done = comm.Ibarrier()
        while not done.Test():
            time.sleep(1e-3)
    return comm.allreduce(seconds, op=MPI.MAX)


def figures(ways, all_sizes, count):
    """Yield for each verb and size the seconds of each way, a list of rounds each."""
    comm = MPI.COMM_WORLD
    for verb, sizes in all_sizes.items():
        for nbytes in sizes:
            obj = payload(verb, nbytes, comm.size)
            here = dict(ways)
            if verb in ("bcast", "allgather"):
                here["limit"] = Buffers(comm, obj)
            once = min(measure(verb, way, obj, 2) for way in here.values())
            times = max(1, min(1000, int(SECONDS / once)))
            seconds = {name: [] for name in here}
            for _ in range(count):
                for name, way in here.items():
                    seconds[name].append(measure(verb, way, obj, times))
            yield verb, nbytes, seconds


def ratio(theirs, ours):
    """Return the median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def cell(name, seconds):
    if name not in seconds:
        return ""
    median = f"{1e6 * statistics.median(seconds[name]):.0f} us"
    if name == "fsexchange":
        return median
    return f"{median}  {ratio(seconds[name], seconds['fsexchange']):5.2f}"


def words(nbytes):
    return f"{nbytes // MIB} MiB" if nbytes % MIB == 0 else f"{nbytes // KIB} KiB"


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench-exchange", description=__doc__)
    parser.add_argument("directory", nargs="?", default="/dev/shm", help="for files (/dev/shm)")
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds: 15 s")
    parser.add_argument("--output", metavar="FILE", help="write all figures to it, as JSON")
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    with ExitStack() as stack:
        folder = comm.bcast(
            stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory))
            if comm.rank == 0
            else None
        )

        def exchange(name, **limit):
            return stack.enter_context(Exchange(comm, f"{folder}/{name}", **limit))

        ways = {
            "fsexchange": exchange("ours"),
            "mpi4py": comm,
            "pkl5": pkl5.Intracomm(comm),
        }
        if not options.quick:
            ways["all inline"] = exchange("inline", inline_limit=1 << 40)
            ways["all in files"] = exchange("files", inline_limit=0)
        sizes, count = (QUICK_SIZES, 3) if options.quick else (SIZES, 9)
        rows = list(figures(ways, sizes, count))
        kind = find_filesystem(folder).kind
    if comm.rank != 0:
        return
    columns = ["fsexchange", "mpi4py", "pkl5", "limit", *list(ways)[3:]]
    table = Table("verb", "bytes", *columns)
    for column in table.columns:
        column.justify = "right"
    for verb, nbytes, seconds in rows:
        table.add_row(verb, words(nbytes), *[cell(name, seconds) for name in columns])
    Console(width=140).print(table)
    print(
        f"{comm.size} ranks, {os.cpu_count()} cores, {kind}; medians of {count} rounds, and how "
        "many times as long as fsexchange"
    )
    if options.output:
        described = {
            "ranks": comm.size,
            "cores": os.cpu_count(),
            "file system": kind,
            "kernel": platform.release(),
            "mpi": MPI.Get_library_version().split("\n")[0].strip("\0 "),
            "mpi4py": mpi4py.__version__,
            "rows": [
                {"verb": verb, "bytes": nbytes, "seconds": seconds}
                for verb, nbytes, seconds in rows
            ],
        }
        with open(options.output, "w") as file:
            json.dump(described, file, indent=1)


if __name__ == "__main__":
    main()
