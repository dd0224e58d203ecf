"""What is measured: the work, the objects, and how often."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .peers import ALL, CHIEF, OF_OBJECTS, Bare, Ours
from .words import GIB, KIB, LISTS_VERB, MIB, size

WORKS = ["put", "get", "get, sum", "evict"]
BATCH_WORKS = ["put_batch", "get_batch", "evict_batch"]
BATCH = "10,000 x 1 KiB"
LIVE, FIRST = "1 KiB, 100,000 live", "first 1,000"
NEEDED = "numpy, cloudpickle"
EXCHANGE_WORKS = [
    "bcast",
    "allgather",
    "alltoall",
    LISTS_VERB,
    "send",
    "halo",
    "irecv from anyone",
    "bcast of a dict",
    "allgather of a dict",
    "allreduce of a number",
    "send of a dict",
    "send of a number",
]
EXCHANGE_PEERS = ["mpi4py", "pkl5"]
EXCHANGE_LIMIT = "Bcast, Allgather"


class Plan(NamedTuple):
    """How much to measure: sizes in bytes, and the number of objects in the loops of a round."""

    sizes: list[int]  # of arrays
    chief_sizes: list[int]  # of arrays that only the chief ways exchange
    object_sizes: list[int]
    rounds: int  # at most
    least: int  # rounds, however long they take
    seconds: float  # of rounds of one object, after which no further round starts
    objects: int
    together: int  # bytes of all objects of a loop, at most
    live: list[type]  # ways that are measured among many live objects, too
    everywhere: bool  # do that, and measure an Exchange, in each directory, not only in the first
    quick_exchange: bool
    starts: int  # of the two processes in which two checkouts are compared
    seconds_against: float  # as `seconds`, for each start


FULL = Plan(
    sizes=[0, KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB, GIB],
    chief_sizes=[],
    object_sizes=[0, KIB, MIB, 64 * MIB],
    rounds=25,
    least=3,
    seconds=8,
    objects=200,
    together=64 * MIB,
    live=[Ours, Bare],
    everywhere=True,
    quick_exchange=False,
    starts=5,
    seconds_against=0.5,
)
QUICK = Plan(
    sizes=[0, KIB, MIB, 64 * MIB],
    chief_sizes=[256 * MIB],
    object_sizes=[KIB, MIB],
    rounds=15,
    least=2,
    seconds=1.2,
    objects=50,
    together=8 * MIB,
    live=[Ours],
    everywhere=False,
    quick_exchange=True,
    starts=3,
    seconds_against=0.2,
)
PLANS = {"full": FULL, "quick": QUICK}


class Case(NamedTuple):
    """One object, or the objects of a batch, and the ways that can exchange it."""

    label: str
    ways: list[type]
    obj: Any
    nbytes: int
    is_array: bool = False
    is_batch: bool = False

    def times(self, plan):
        """Return how many such objects a loop exchanges in one round."""
        return max(1, min(plan.objects, plan.together // max(1, self.nbytes)))


def objects(nbytes):
    """Return what is exchanged besides plain arrays, of about `nbytes` each."""
    columns = {name: np.arange(nbytes // 32) * 1.5 for name in "abcd"}
    large = {"dict of arrays": columns, "DataFrame": pd.DataFrame(columns)}
    small = {"str": "x" * nbytes, "dict": {str(n): n * 1.5 for n in range(nbytes // 16)}}
    return (small if nbytes <= KIB else {}) | (large if nbytes else {})


def cases(plan):
    """Yield every object to measure, made only when its turn comes."""
    for ways, sizes in ((ALL, plan.sizes), (CHIEF, plan.chief_sizes)):
        for nbytes in sizes:
            yield Case(size(nbytes), ways, np.ones(nbytes // 8), nbytes, is_array=True)
    for nbytes in plan.object_sizes:
        for label, obj in objects(nbytes).items():
            yield Case(f"{size(nbytes)} {label}", OF_OBJECTS, obj, nbytes)
    batch = [np.full(128, n, "f8") for n in range(10_000)]
    yield Case(BATCH, CHIEF, batch, 10_000 * KIB, is_batch=True)
