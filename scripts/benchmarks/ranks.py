"""The verbs of the ranks of an MPI job; every page of the results is read."""

import time

import numpy as np
from mpi4py import MPI
from mpi4py.util import pkl5

from .words import KIB, LISTS_VERB, MIB

SIZES = {
    "bcast": [104, KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB],
    "allgather": [104, KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB],
    "alltoall": [104, KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB],
    LISTS_VERB: [1000 * 4 * KIB],
    "send": [104, KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB],
    "send of a number": [5],
    "send of a dict": [60],
    "bcast of a dict": [60],
    "allgather of a dict": [60],
    "allreduce of a number": [5],
    "halo": [5 * KIB, 300 * KIB, 3 * MIB],
    "irecv from anyone": [KIB, 64 * KIB, MIB],
}
QUICK_SIZES = {
    "bcast of a dict": [60],
    "send of a dict": [60],
    "bcast": [KIB, 64 * MIB],
    "allgather": [16 * MIB],
    LISTS_VERB: [1000 * 4 * KIB],
    "send": [KIB],
}

# Verbs in which only two ranks take part.
OF_TWO = ("send", "send of a number", "send of a dict", "irecv from anyone")

SECONDS = 0.05  # of each way in each round, about


class Pshmem:
    """An array that the ranks of each host share, allocated and set from one rank for each use."""

    def __init__(self, comm):
        from pshmem import MPIShared  # those who measure other ways do without

        self.allocate = MPIShared
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.shared = None

    def bcast(self, array):
        self.close()
        shape = self.comm.bcast(None if array is None else array.shape)
        self.shared = self.allocate(shape, np.float64, self.comm)
        self.shared.set(array, fromrank=0)
        return self.shared.data

    def close(self):
        if self.shared is not None:
            self.shared.close()
            self.shared = None


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
    if verb.endswith("of a number"):
        return 5
    if verb.endswith("of a dict"):
        return {"step": 17, "sizes": [1, 2, 3], "name": "density", "dt": 1.5}
    return np.ones(nbytes // 8)


def post_receive(way, obj, **source):
    """Return a request; mpi4py needs room for the whole object."""
    return way.irecv(None if hasattr(way, "store") else obj.nbytes + 4 * KIB, **source)


def halo(way, obj):
    """Exchange one object with the neighbour on either side of a ring."""
    right, left = (way.rank + 1) % way.size, (way.rank - 1) % way.size
    if isinstance(way, pkl5.Comm):  # has no irecv
        sent = [way.isend(obj, to) for to in (left, right)]
        results = [way.recv(source=right), way.recv(source=left)]
        pkl5.Request.waitall(sent)
        return results
    received = [post_receive(way, obj, source=source) for source in (left, right)]
    for to in (right, left):
        way.send(obj, to)
    return MPI.Request.waitall(received)


def call(verb, way, obj):
    """Call the verb once, as each rank does, and read a byte of every page of the result."""
    rank, size = way.rank, way.size
    if verb.startswith("bcast"):
        results = [way.bcast(obj if rank == 0 else None)]
    elif verb.startswith("allgather"):
        results = way.allgather(obj)
    elif verb.startswith("allreduce"):
        results = [way.allreduce(obj)]
    elif verb in ("alltoall", LISTS_VERB):
        results = way.alltoall([obj] * size)
    elif verb == "halo":
        results = halo(way, obj)
    elif verb == "irecv from anyone":
        received = [post_receive(way, obj) for _ in range(5)] if rank == 0 else []
        if rank == 1:
            for _ in range(5):
                way.send(obj, 0)
            way.recv(source=0)
        results = MPI.Request.waitall(received)
        if rank == 0:
            way.send(None, 1)
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
        elif isinstance(result, np.ndarray):
            result.view(np.uint8)[::4096].sum()


def wait_for_all(comm, pause=1e-3):
    """Return when all ranks are here; a rank that waits leaves its core to the others."""
    done = comm.Ibarrier()
    while not done.Test():
        time.sleep(pause)


def renew(obj):
    """Write to all of an object, as a program does that has something new to send.

    Else its receiver, which read the same memory in the call before, has it in its own caches if
    the way lets it read the sender's.
    """
    for array in obj if isinstance(obj, list) else [obj]:
        if isinstance(array, np.ndarray):
            array += 1


def measure(verb, way, obj, times):
    """Return the seconds of one call, on the slowest rank."""
    comm = MPI.COMM_WORLD
    comm.Barrier()
    seconds = 0.0
    for _ in range(times):
        if verb not in OF_TWO or comm.rank < 2:
            renew(obj)
        start = time.perf_counter()
        call(verb, way, obj)
        seconds += (time.perf_counter() - start) / times
    if verb in OF_TWO:  # the ranks that take no part must leave the cores to the two that do
        wait_for_all(comm)
    return comm.allreduce(seconds, op=MPI.MAX)


def times_for(seconds):
    """Return how many calls a round makes, when one call takes `seconds`."""
    return max(1, min(1000, int(SECONDS / seconds)))


def figures(ways, all_sizes, count):
    """Yield the seconds of each way for each verb and size, a list of `count` rounds.

    From 16 MiB on a third of these.
    """
    comm = MPI.COMM_WORLD
    for verb, sizes in all_sizes.items():
        for nbytes in sizes:
            obj = payload(verb, nbytes, comm.size)
            here = dict(ways)
            if verb == "irecv from anyone":
                del here["pkl5"]
            if verb != "bcast":
                here.pop("pshmem", None)
            if verb in ("bcast", "allgather"):
                here["limit"] = Buffers(comm, obj)
            times = times_for(min(measure(verb, way, obj, 2) for way in here.values()))
            seconds = {name: [] for name in here}
            for _ in range(count if nbytes < 16 * MIB else max(3, count // 3)):
                for name, way in here.items():
                    seconds[name].append(measure(verb, way, obj, times))
            yield verb, nbytes, seconds
