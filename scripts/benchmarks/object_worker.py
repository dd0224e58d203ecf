"""The worker that measures objects in a store."""

import gc
import json
import sys

import numpy as np

from .loops import once, once_batch
from .peers import Ours
from .plan import LIVE, PLANS, cases
from .words import KIB
from .worker import serve


def rows(folder, plan):
    """Yield a row for every object; the last is for a small one among 100,000."""
    way = Ours(folder)
    for case in cases(plan):
        if case.is_batch:
            yield case.label, 1, lambda _, obj=case.obj: once_batch(way, obj)
        else:
            yield case.label, case.times(plan), lambda n, obj=case.obj: once(way, obj, n)
    array = np.ones(KIB // 8)
    for _ in range(100_000):
        way.put(array)
    yield LIVE, plan.objects, lambda n: once(way, array, n)
    way.close()


def main():
    folder, plan = sys.argv[1:]
    gc.disable()
    gc.freeze()
    serve(sys.stdin, rows(folder, PLANS[plan]), lambda reply: print(json.dumps(reply), flush=True))


if __name__ == "__main__":
    main()
