"""Put on one host and get on another, by fsexchange, ProxyStore and bare system calls in turn.

The first rank puts. The second, on another host, gets each object twice: the first get asks the
server, the second finds the data in the host's cache. Then the first rank gets what it has put.
Objects are read, not mapped, on file systems where fsexchange reads them.
"""

import argparse
import gc
import random
import statistics
import tempfile
import time

import numpy as np
from mpi4py import MPI

from benchmarks.machine import about, kind_of
from benchmarks.markdown import markdown_table
from benchmarks.peers import BareRead, BareReread, Ours, ProxyStore
from benchmarks.words import KIB, MIB, duration, number, quotients, size, spread

SIZES = [KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB]
BATCH = 1000  # objects of the first size
WAYS = [Ours, ProxyStore, BareRead, BareReread]
WORKS = ["put", "get", "get again", "get by the writer"]
LEAST = 8  # rounds


def timed(verb, argument):
    start = time.perf_counter()
    result = verb(argument)
    return time.perf_counter() - start, result


def get_all(ways, keys, *, batch):
    """Return the seconds that each way takes to get its object; the ways take turns."""
    verb = "get_batch" if batch else "get"
    return {name: timed(getattr(ways[name], verb), key)[0] for name, key in keys.items()}


def received(comm):
    """Receive without a busy loop: MPI's own would take a processor from those who measure."""
    while (message := comm.improbe()) is None:
        time.sleep(1e-3)
    return message.recv()


def put_and_get(comm, ways, obj, seconds):
    """Return the seconds of each work and way, a figure a round; of a list for all its objects."""
    batch = isinstance(obj, list)
    put, evict = ("put_batch", "evict_batch") if batch else ("put", "evict")
    figures = {work: {name: [] for name in ways} for work in WORKS}
    start, rounds = time.perf_counter(), 0
    while rounds <= LEAST or time.perf_counter() - start < seconds:
        order = random.sample(list(ways), len(ways))
        puts = {name: timed(getattr(ways[name], put), obj) for name in order}
        keys = {name: key for name, (_, key) in puts.items()}
        comm.send((keys, batch), 1)
        found = [{name: took for name, (took, _) in puts.items()}, *received(comm)]
        found.append(get_all(ways, keys, batch=batch))
        for name, key in keys.items():
            getattr(ways[name], evict)(key)
        if rounds:  # the first also makes directories, and finds out the kind of file system
            for work, one in zip(WORKS, found, strict=True):
                for name in ways:
                    figures[work][name].append(one[name])
        rounds += 1
    return figures


def serve(comm, ways):
    """Get each object twice, for as long as the first rank puts some."""
    while (asked := received(comm)) is not None:
        keys, batch = asked
        comm.send([get_all(ways, keys, batch=batch) for _ in range(2)], 0)


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench-hosts", description=__doc__)
    parser.add_argument("directory", help="a directory that both hosts see")
    parser.add_argument("--seconds", type=float, default=30, help="for each size (30)")
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    if comm.size != 2:
        parser.error("start it as two ranks")
    gc.disable()
    gc.freeze()
    if comm.rank:
        folders = received(comm)
        serve(comm, {way.name: way(folder) for way, folder in zip(WAYS, folders, strict=True)})
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        folders = [tempfile.mkdtemp(dir=folder) for _ in WAYS]
        ways = {way.name: way(folder) for way, folder in zip(WAYS, folders, strict=True)}
        comm.send(folders, 1)
        objs = {size(nbytes): np.ones(nbytes // 8) for nbytes in SIZES}
        objs[f"{BATCH:,} x {size(SIZES[0])}"] = [np.ones(SIZES[0] // 8) for _ in range(BATCH)]
        found = [(of, put_and_get(comm, ways, objs[of], options.seconds)) for of in objs]
        comm.send(None, 1)
        rows = []
        for work in WORKS:
            for of, figures in found:
                ours, *others = figures[work].values()
                cells = [spread(quotients(ours, other), number) for other in others]
                time_of_ours = duration(statistics.median(ours))
                rows.append([f"{work}: {of}", time_of_ours, *cells])
        kind = kind_of(folder)
        for way in ways.values():
            way.close()
    heads = [f"times as long as {way.name} (quartiles)" for way in WAYS[1:]]
    print(markdown_table(["", kind, *heads], rows))
    print(about())


if __name__ == "__main__":
    main()
