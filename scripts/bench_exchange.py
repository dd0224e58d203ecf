"""Collectives and messages of fsexchange, mpi4py, pkl5 and pshmem in turn; all pages are read.

pshmem has one verb: an array that a host's ranks share, allocated and set from one rank, which is
measured as a bcast. In "alltoall of lists" each rank has 1,000 arrays of 4 KiB, and sends each rank
a list of its share. The last columns are not peers. "limit" is mpi4py's upper-case verbs, which
move bare memory into arrays that exist already. "all inline" and "all shared" are fsexchange's two
ways, by messages and by memory that the ranks of a host share; its `inline_limit` decides which of
them it takes.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from contextlib import ExitStack

import mpi4py
from mpi4py import MPI
from mpi4py.util import pkl5
from rich.console import Console
from rich.table import Table

from benchmarks.machine import kind_of
from benchmarks.markdown import markdown_table
from benchmarks.ranks import QUICK_SIZES, SIZES, Pshmem, figures
from benchmarks.words import duration, exchanged, number, quotients
from fsexchange.mpi import Exchange

PEERS = ["mpi4py", "pkl5", "pshmem"]


def cell(name, seconds):
    if name not in seconds:
        return ""
    median = f"{1e6 * statistics.median(seconds[name]):.0f} us"
    if name == "fsexchange":
        return median
    ratio = statistics.median(quotients(seconds[name], seconds["fsexchange"]))
    return f"{median}  {ratio:5.2f}"


def markdown_of(rows):
    """Return the table of BENCHMARKS.md."""
    lines = []
    for verb, nbytes, seconds in rows:
        ours = seconds["fsexchange"]
        cells = [
            number(statistics.median(quotients(seconds[peer], ours))) if peer in seconds else ""
            for peer in PEERS
        ]
        of_limit = quotients(ours, seconds["limit"]) if "limit" in seconds else []
        cells.append(number(statistics.median(of_limit)) if of_limit else "")
        label = f"{verb}: {exchanged(verb, nbytes)}"
        lines.append([label, duration(statistics.median(ours)), *cells])
    heads = [f"times as fast as {peer}" for peer in PEERS]
    return markdown_table(["", "fsexchange", *heads, "times as long as Bcast, Allgather"], lines)


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench-exchange", description=__doc__)
    parser.add_argument("directory", nargs="?", default="/dev/shm", help="for files (/dev/shm)")
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds: 15 s")
    parser.add_argument("--output", help="writes OUTPUT.json, and OUTPUT.md for BENCHMARKS.md")
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
            "pshmem": Pshmem(comm),
        }
        if not options.quick:
            ways["all inline"] = exchange("inline", inline_limit=1 << 40)
            ways["all shared"] = exchange("shared", inline_limit=0)
        sizes, count = (QUICK_SIZES, 3) if options.quick else (SIZES, 9)
        rows = list(figures(ways, sizes, count))
        kind = kind_of(folder)
    if comm.rank != 0:
        return
    columns = ["fsexchange", *PEERS, "limit", *list(ways)[4:]]
    table = Table("verb", "bytes", *columns)
    for column in table.columns:
        column.justify = "right"
    for verb, nbytes, seconds in rows:
        table.add_row(verb, exchanged(verb, nbytes), *[cell(name, seconds) for name in columns])
    Console(width=150).print(table)
    print(
        f"{comm.size} ranks, {os.cpu_count()} cores, {kind}; medians of {count} rounds, "
        f"{max(3, count // 3)} from 16 MiB on, and how many times as long as fsexchange"
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
        with open(f"{options.output}.json", "w") as file:
            json.dump(described, file, indent=1)
        with open(f"{options.output}.md", "w") as file:
            file.write(markdown_of(rows))


if __name__ == "__main__":
    main()
