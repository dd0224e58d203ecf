"""The verbs of the ranks of an MPI job; every page of the results is read."""

import time

import numpy as np
from mpi4py import MPI

from .words import KIB, LISTS_VERB, MIB

SIZES = {
    "bcast": [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB],
    "allgather": [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB],
    "alltoall": [KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB],
    LISTS_VERB: [1000 * 4 * KIB],
    "send": [KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB],
}
QUICK_SIZES = {
    "bcast": [KIB, 64 * MIB],
    "allgather": [16 * MIB],
    LISTS_VERB: [1000 * 4 * KIB],
    "send": [KIB],
}
SECONDS = 0.05  # of each way in each round, about


class Buffers:
    """mpi4py's upper-case verbs, into arrays that exist already."""

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
    """Return what a rank sends to another rank, or to all."""
    if verb == LISTS_VERB:
        return [np.full(512, n, "f8") for n in range(nbytes // (4 * KIB) // size)]
    return np.ones(nbytes // 8)


def call(verb, way, obj):
    """Call the verb once, as each rank does, and read a byte of every page of the result."""
    rank, size = way.rank, way.size
    if verb == "bcast":
        results = [way.bcast(obj if rank == 0 else None)]
    elif verb == "allgather":
        results = way.allgather(obj)
    elif verb in ("alltoall", LISTS_VERB):
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


def wait_for_all(comm, pause=1e-3):
    """Return when all ranks are here; a rank that waits leaves its core to the others."""
    done = comm.Ibarrier()
    while not done.Test():
        time.sleep(pause)


def measure(verb, way, obj, times):
    """Return the seconds of one call, on the slowest rank."""
    comm = MPI.COMM_WORLD
    comm.Barrier()
    start = time.perf_counter()
    for _ in range(times):
        call(verb, way, obj)
    seconds = (time.perf_counter() - start) / times
    if verb == "send":  # the ranks that take no part must leave the cores to the two that do
        wait_for_all(comm)
    return comm.allreduce(seconds, op=MPI.MAX)


def times_for(seconds):
    """Return how many calls a round makes, when one call takes `seconds`."""
    return max(1, min(1000, int(SECONDS / seconds)))


def figures(ways, all_sizes, count):
    """Yield the seconds of each way for each verb and size, as a list of rounds."""
    comm = MPI.COMM_WORLD
    for verb, sizes in all_sizes.items():
        for nbytes in sizes:
            obj = payload(verb, nbytes, comm.size)
            here = dict(ways)
            if verb in ("bcast", "allgather"):
                here["limit"] = Buffers(comm, obj)
            times = times_for(min(measure(verb, way, obj, 2) for way in here.values()))
            seconds = {name: [] for name in here}
            for _ in range(count):
                for name, way in here.items():
                    seconds[name].append(measure(verb, way, obj, times))
            yield verb, nbytes, seconds
