"""Collectives and messages of fsexchange, mpi4py and pkl5 in turn; all pages are read."""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack

import numpy as np
from mpi4py import MPI
from mpi4py.util import pkl5
from rich.console import Console
from rich.table import Table

from fsexchange.filesystem import find_filesystem
from fsexchange.mpi import Exchange

KIB, MIB = 1 << 10, 1 << 20
SIZES = {
    "bcast": [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB],
    "allgather": [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB],
    "alltoall": [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB],
    "send": [KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB],
}
QUICK_SIZES = {verb: [KIB, MIB, 16 * MIB] for verb in SIZES}
SECONDS = 0.05  # of each way in each round, about


def call(verb, way, array):
    """Do it once, as one rank of many, and read a byte of every page of what comes."""
    rank, size = way.rank, way.size
    if verb == "bcast":
        results = [way.bcast(array if rank == 0 else None)]
    elif verb == "allgather":
        results = way.allgather(array)
    elif verb == "alltoall":
        results = way.alltoall([array] * size)
    elif rank == 0:
        way.send(array, 1)
        results = [way.recv(source=1)]
    elif rank == 1:
        results = [way.recv(source=0)]
        way.send(array, 0)
    else:
        results = []
    for result in results:
        result.view(np.uint8)[::4096].sum()


def measure(verb, way, array, times):
    """Return the seconds of one call, on the slowest rank."""
    comm = MPI.COMM_WORLD
    comm.Barrier()
    start = time.perf_counter()
    for _ in range(times):
        call(verb, way, array)
    seconds = (time.perf_counter() - start) / times
    if verb == "send":  # ranks without a part in it must not take the cores from the others
        done = comm.Ibarrier()
        while not done.Test():
            time.sleep(1e-3)
    return comm.allreduce(seconds, op=MPI.MAX)


def figures(ways, all_sizes, count):
    """Yield for each verb and size the seconds of each way, a list of rounds each."""
    for verb, sizes in all_sizes.items():
        for nbytes in sizes:
            array = np.ones(nbytes // 8)
            once = min(measure(verb, way, array, 2) for way in ways)
            times = max(1, min(1000, int(SECONDS / once)))
            rounds = [[measure(verb, way, array, times) for way in ways] for _ in range(count)]
            yield verb, nbytes, list(zip(*rounds, strict=True))


def ratio(theirs, ours):
    """Return the median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench-exchange", description=__doc__)
    parser.add_argument("directory", nargs="?", default="/dev/shm", help="for files (/dev/shm)")
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds")
    options = parser.parse_args()
    sizes, count = (QUICK_SIZES, 3) if options.quick else (SIZES, 9)
    comm = MPI.COMM_WORLD
    table = Table("verb", "bytes", "fsexchange", "mpi4py", "pkl5", "all inline", "all in files")
    for column in table.columns:
        column.justify = "right"
    with ExitStack() as stack:
        folder = comm.bcast(
            stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory))
            if comm.rank == 0
            else None
        )
        ways = [
            stack.enter_context(Exchange(comm, f"{folder}/ours")),
            comm,
            pkl5.Intracomm(comm),
            stack.enter_context(Exchange(comm, f"{folder}/inline", inline_limit=1 << 40)),
            stack.enter_context(Exchange(comm, f"{folder}/files", inline_limit=0)),
        ]
        for verb, nbytes, (ours, *others) in figures(ways, sizes, count):
            cells = [f"{1e6 * statistics.median(ours):.0f} us"]
            cells += [
                f"{1e6 * statistics.median(theirs):.0f} us  {ratio(theirs, ours):5.2f}"
                for theirs in others
            ]
            table.add_row(verb, f"{nbytes >> 10} KiB", *cells)
        kind = find_filesystem(folder).kind
    if comm.rank == 0:
        Console(width=120).print(table)
        print(
            f"{comm.size} ranks, {os.cpu_count()} cores, {kind}; medians of {count} rounds, and "
            "how many times as long as fsexchange"
        )


if __name__ == "__main__":
    main()
