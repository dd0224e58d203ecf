"""A process that measures one kind of objects, and prints what it found as JSON.

    python -m benchmarks.kind_worker time PLAN KIND FOLDER
    python -m benchmarks.kind_worker weigh PLAN KIND FOLDER WAY
    python -m benchmarks.kind_worker weigh-get PLAN KIND FOLDER WAY    the key comes on stdin

Memory is measured in new processes: one that puts, and one that gets what it never had. Both have
put or got a small object of the kind before, so that what the libraries load is not counted.
"""

import ctypes
import gc
import json
import os
import pickle
import resource
import subprocess
import sys
import time

from .kind_plan import KIND_PLANS
from .kinds import NAMED
from .loops import once
from .peers import OF_KINDS
from .words import KIB

SMALL = 64 * KIB


def ways_of(kind):
    """Return every way that may exchange such objects; the kind's own is the last."""
    return {way.name: way for way in (*OF_KINDS, kind.own) if way is not None}


def measure(kind, plan, folder):
    """Return for each size and way the seconds of every round; no way that fails."""
    ways, found = {name: way(folder) for name, way in ways_of(kind).items()}, {}
    for nbytes in dict.fromkeys(map(kind.nbytes, plan.sizes)):
        obj = kind.make(nbytes)
        times = max(1, min(plan.objects, plan.together // nbytes))
        figures = found[nbytes] = {}
        start = time.perf_counter()
        for done in range(plan.rounds + 1):
            if done > plan.least and time.perf_counter() - start > plan.seconds:
                break
            # There and back: what one way leaves behind, others find as often as it finds theirs.
            for way in [*ways.values()][:: -1 if done % 2 else 1]:
                gc.collect()
                try:
                    seconds = once(way, obj, times, id)
                except Exception as error:
                    print(f"{kind.name}: {way.name}: {error!r}", file=sys.stderr)
                    del ways[way.name]
                    figures.pop(way.name, None)
                    continue
                if done:  # the first round pays for imports and new pages
                    for work in ("put", "get"):
                        figures.setdefault(way.name, {}).setdefault(work, []).append(seconds[work])
    return found


# ---- memory -------------------------------------------------------------------------------------


# Prints the most anonymous memory that a process has at a time, in pages: statm in proc(5). The
# peak that the kernel keeps counts pages of mapped files, too.
WATCH = """
import os, select, sys
file, most = os.open(f"/proc/{sys.argv[1]}/statm", os.O_RDONLY), 0
print(flush=True)
while not select.select([0], [], [], 0.0005)[0]:
    _, resident, shared = map(int, os.pread(file, 100, 0).split()[:3])
    most = max(most, resident - shared)
print(most)
"""


def anonymous():
    with open("/proc/self/statm") as file:
        _, resident, shared = map(int, file.read().split()[:3])
    return resident - shared


def weigh(verb, argument):
    """Return what a verb returns, and by how many bytes it raised this process's own memory."""
    command = [sys.executable, "-S", "-c", WATCH, str(os.getpid())]
    watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    watch.stdout.readline()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = anonymous()
    made = verb(argument)
    after = anonymous()
    most = max(after, int(watch.communicate()[0]))
    return made, max(0, most - before) * resource.getpagesize()


def weigh_put(kind, plan, folder, name):
    """Return the memory of put and of get."""
    way = ways_of(kind)[name](folder)
    way.get(way.put(kind.make(SMALL)))
    obj = kind.make(kind.nbytes(plan.sizes[-1]))
    key, put = weigh(way.put, obj)
    command = [sys.executable, "-m", "benchmarks.kind_worker", "weigh-get", *sys.argv[2:]]
    done = subprocess.run(command, check=True, input=pickle.dumps(key), stdout=subprocess.PIPE)
    return {"put": put, **json.loads(done.stdout)}


def weigh_get(kind, folder, name):
    way = ways_of(kind)[name](folder)
    key = pickle.load(sys.stdin.buffer)
    way.get(way.put(kind.make(SMALL)))
    return {"get": weigh(way.get, key)[1]}


def main():
    task, plan, kind, folder, *names = sys.argv[1:]
    kind, plan = NAMED[kind], KIND_PLANS[plan]
    gc.disable()
    if task == "time":
        found = measure(kind, plan, folder)
    elif task == "weigh":
        found = weigh_put(kind, plan, folder, *names)
    else:
        found = weigh_get(kind, folder, *names)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
