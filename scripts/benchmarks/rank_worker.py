"""The worker that measures the verbs of ranks: an MPI job, whose first rank gets the commands."""

import gc
import json
import sys

from mpi4py import MPI

from fsexchange.mpi import Exchange

from .ranks import QUICK_SIZES, SIZES, measure, payload, times_for, wait_for_all
from .words import exchanged
from .worker import serve


def lines(comm):
    """Yield the lines that the first rank reads; ranks that wait leave their cores to others."""
    while True:
        line = sys.stdin.readline() if comm.rank == 0 else None
        wait_for_all(comm, pause=5e-3)
        line = comm.bcast(line)
        if not line:
            return
        yield line


def rows(exchange, sizes):
    """Yield a row for every verb and size."""
    for verb, all_bytes in sizes.items():
        for nbytes in all_bytes:
            obj = payload(verb, nbytes, exchange.size)
            times = times_for(measure(verb, exchange, obj, 2))
            yield (
                exchanged(verb, nbytes),
                times,
                lambda n, verb=verb, obj=obj: {verb: measure(verb, exchange, obj, n)},
            )


def main():
    folder, plan = sys.argv[1:]
    gc.disable()
    gc.freeze()
    comm = MPI.COMM_WORLD

    def answer(reply):
        if comm.rank == 0:
            print(json.dumps(reply), flush=True)

    with Exchange(comm, f"{folder}/ranks") as exchange:
        serve(lines(comm), rows(exchange, QUICK_SIZES if plan == "quick" else SIZES), answer)


if __name__ == "__main__":
    main()
