"""The worker of scripts/scale: ranks that call each verb once, between marks that strace sees.

    python -m mpi4py -m benchmarks.scale_worker RANKS_OF_A_HOST WAY FOLDER

It prints a line of JSON for each verb: its name, the bytes of an object, and for each rank what MPI
has brought to it, its calls of MPI, and by how many bytes its memory has grown.
"""

import json
import os
import sys
import types
from collections import Counter

import numpy as np
from mpi4py import MPI

from fsexchange.mpi import Exchange, carriers, membership, relay, room, rooms, slab
from fsexchange.mpi import received as received_memory

from .scaling import LIMIT, OBJECT, SMALL

world = MPI.COMM_WORLD
received = Counter()  # by the verb of MPI, the bytes of a piece, and the rank that it is from
calls = Counter()


class Counting(MPI.Intracomm):
    """A communicator that counts the pieces which this rank receives from other ranks."""

    def _note(self, verb, nbytes, sources):
        ranks = self.group.Translate_ranks(None, world.group)
        received.update((verb, nbytes, ranks[n]) for n in sources if n != self.rank)

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name.lstrip("I").lower() not in MOVES or name.islower():
            return found

        def counted(*args, **options):
            calls[name] += 1
            MOVES[name.lstrip("I").lower()](self, name, *args, **options)
            return found(*args, **options)

        return counted


def uncounted(comm, name, *args, **options):
    raise NotImplementedError(f"scripts/scale does not count {name}")


def nbytes_of(buffer):
    """Return the bytes of what MPI receives into, which may come with counts."""
    return memoryview(buffer[0] if isinstance(buffer, list) else buffer).nbytes


def from_all(comm, name, sent, got, *_):
    comm._note(name, nbytes_of(got) // comm.size, range(comm.size))


def at_root(comm, name, sent, got, root=0):
    if comm.rank == root:
        from_all(comm, name, sent, got)


def from_each(comm, name, sent, got):
    for source, nbytes in enumerate(got[1]):
        if nbytes:
            comm._note(name, nbytes, [source])


def scattered(comm, name, sent, got, root=0):
    if comm.rank != root:
        comm._note(name, nbytes_of(got), [root])


def at_first(comm, name, sent, got, *_):
    comm._note(name, nbytes_of(got), [0] if comm.rank else range(comm.size))


def one(comm, name, got, source=0, *_):
    comm._note(name, nbytes_of(got), [source])


def both_ways(comm, name, sent, dest, sendtag, got, source, *_):
    calls["Recv"] += 1  # beside the one that sends
    one(comm, "Recv", got, source)


# What moves data, without the I of its non-blocking form.
MOVES = dict.fromkeys(
    ["alltoallv", "alltoallw", "gatherv", "scatterv", "mrecv", "reduce"],
    uncounted,
) | {
    "allgather": from_all,
    "alltoall": from_all,
    "allgatherv": from_each,
    "gather": at_root,
    "scatter": scattered,
    "allreduce": at_first,
    "bcast": one,
    "recv": one,
    "send": lambda *_: None,
    "sendrecv": both_ways,
}


def memory():
    """Return the PSS of this rank: proc(5), smaps_rollup."""
    world.Barrier()
    with open("/proc/self/smaps_rollup") as lines:
        pss = 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    world.Barrier()
    return pss


def forget():
    """Let go of memory that is kept for the next call."""
    room.HostRoom.forget()
    received_memory.forget()


def held(verb):
    """Return by how much the memory of this rank grows when it has read what a verb returns."""
    forget()
    got = verb()
    for part in got if isinstance(got, list) else [got]:
        if isinstance(part, np.ndarray):
            part.sum()
    with_it = memory()
    del got, part
    forget()
    return with_it - memory()


def verbs_of(ex, nbytes):
    """Return calls of the verbs with small or large objects."""
    block = np.full(nbytes, ex.rank, "u1")
    obj = ex.rank if nbytes == SMALL else block
    return {
        "bcast": lambda: ex.bcast(obj if ex.rank == 0 else None),
        "gather": lambda: ex.gather(obj),
        "allgather": lambda: ex.allgather(obj),
        "scatter": lambda: ex.scatter([obj] * ex.size),
        "alltoall": lambda: ex.alltoall([obj] * ex.size),
        "assemble": lambda: ex.assemble(block),
    }


def no_memory(nbytes):
    raise OSError("as if a host had no memory to share")


def main():
    ranks_of_a_host, way, folder = int(sys.argv[1]), *sys.argv[2:]
    number = world.rank // ranks_of_a_host
    slab.this_host = lambda: (number,)
    counting = types.SimpleNamespace(**{**vars(MPI), "Intracomm": Counting})
    membership.MPI = relay.MPI = counting
    # As among many ranks: by collectives, and from 64 ranks on packets are short.
    carriers.FEW = carriers._PASSED_ON = 0
    with Exchange(world, f"{folder}/store", inline_limit=LIMIT) as ex:
        if way == "store":
            room.HostRoom.make = rooms.OwnRoom = no_memory
        for nbytes in (SMALL, OBJECT):
            for name, verb in verbs_of(ex, nbytes).items():
                verb()  # communicators are made, once
                received.clear()
                calls.clear()
                forget()  # later calls use it again: a create and a mapping less
                world.Barrier()
                os.access(f"/begin {name} {nbytes} {number}", 0)
                verb()
                os.access("/end", 0)
                mine = list(received.items()), sum(calls.values()), held(verb)
                everyone = world.gather(mine)
                if world.rank == 0:
                    print(json.dumps([name, nbytes, *zip(*everyone, strict=True)]), flush=True)


if __name__ == "__main__":
    main()
