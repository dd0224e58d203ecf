"""Share one large array with all workers of a multiprocessing pool without copying it.

python examples/pool_shared_array.py [MiB]

Prints the memory of all workers together, by Ref and by plain pickling of the array: PSS counts a
page that several processes share once in all.
"""

import os
import sys
from multiprocessing import get_context

import numpy as np

from fsexchange import Store

WORKERS = 4


def pss() -> int:
    """Return this process's share of memory in bytes: proc(5), smaps_rollup."""
    with open("/proc/self/smaps_rollup") as lines:
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def prepare(barrier) -> None:
    global everyone, before
    everyone, before = barrier, pss()


def by_ref(ref) -> tuple[float, int]:
    return measured(ref.get())  # mapped: the workers read the same pages of memory


def measured(array) -> tuple[float, int]:
    total = float(array.sum())
    everyone.wait()  # until each worker holds its array
    memory = pss() - before
    everyone.wait()
    return total, memory


if __name__ == "__main__":
    nbytes = int(sys.argv[1] if len(sys.argv) > 1 else 256) << 20
    array = np.ones(nbytes // 8)
    context = get_context("spawn")
    with Store() as store:
        ref = store.ref(array)
        for how, function, argument in (("Ref", by_ref, ref), ("pickling", measured, array)):
            everyone = context.Barrier(WORKERS)
            with context.Pool(WORKERS, prepare, (everyone,)) as pool:
                results = pool.map(function, [argument] * WORKERS, chunksize=1)
            assert {total for total, _ in results} == {nbytes / 8}
            memory = sum(memory for _, memory in results) / nbytes
            print(f"by {how}: {WORKERS} workers hold {memory:.2f} times the array's memory")
        print(f"process {os.getpid()} wrote {nbytes >> 20} MiB once")
