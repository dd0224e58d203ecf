"""All ways in turn, in one directory."""

import compileall
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import numpy as np

import fsexchange

from .loops import once, once_batch, weigh
from .machine import kind_of
from .peers import ALL, Ours
from .plan import EXCHANGE_LIMIT, FIRST, LIVE, NEEDED, cases
from .words import MIB, exchanged

IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


class Found:
    """What was measured in one directory: by work, object and way, a figure a round."""

    def __init__(self, kind):
        self.kind = kind
        self.seconds = {}
        self.memory = {}
        self.exchange = {}  # ranks and versions

    def take_turns(self, plan, label, ways, measure):
        """Note the seconds of each work that `measure(way)` returns, for all ways in turn."""
        if sys.stderr.isatty():
            print(f"{self.kind}: {label}", file=sys.stderr)
        start = time.perf_counter()
        for done in range(plan.rounds):
            if done >= plan.least and time.perf_counter() - start > plan.seconds:
                break
            for way in ways:
                gc.collect()
                for work, seconds in measure(way).items():
                    note(self.seconds, work, label, way.name, seconds)


def note(figures, work, label, way, figure):
    figures.setdefault(work, {}).setdefault(label, {}).setdefault(way, []).append(figure)


def compare(found, plan, case, ways):
    """Note the memory of each way with large arrays, and the seconds of every work."""
    if case.is_array and case.nbytes >= MIB and case.ways is ALL:
        for way in ways:
            for work, nbytes in weigh(way, case.obj).items():
                note(found.memory, work, case.label, way.name, nbytes)
    if case.is_batch:
        found.take_turns(plan, case.label, ways, lambda way: once_batch(way, case.obj))
        return
    times = case.times(plan)
    if times > 1:
        for way in ways:
            once(way, case.obj, 2)
    else:  # the first way must not pay alone for pages that the file system has never had
        once(ways[-1], case.obj, 1)
    found.take_turns(plan, case.label, ways, lambda way: once(way, case.obj, times))


def among_many(found, folder, kinds, live=100_000, some=1_000, rounds=20):
    """Note each work with the last of many live objects, in turn with the first in a new folder."""
    ways = [kind(tempfile.mkdtemp(dir=folder)) for kind in kinds for _ in range(2)]
    obj, clock, keys = np.ones(128), time.perf_counter, {}
    for many, few in zip(ways[::2], ways[1::2], strict=True):
        few.name += f", {FIRST}"
        for _ in range(live - some):
            many.put(obj)
    for work in ("put", "get", "evict"):
        for part, way in itertools.product(range(rounds), ways):
            verb = getattr(way, work)
            todo = [obj] * (some // rounds) if work == "put" else keys[part, way]
            start = clock()
            done = [verb(each) for each in todo]
            note(found.seconds, work, LIVE, way.name, (clock() - start) / len(todo))
            if work == "put":
                keys[part, way] = done
    for way in ways:
        way.close()


def imports(found, plan):
    """Note the seconds of importing fsexchange, in turn with what it cannot do without."""
    compileall.compile_dir(os.path.dirname(fsexchange.__file__), quiet=1)  # as pip does
    modules = {Ours.name: "fsexchange", NEEDED: NEEDED}

    def run(way):
        command = [sys.executable, "-c", IMPORT.format(modules[way.name])]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        return {"import": float(output)}

    ways = [SimpleNamespace(name=name) for name in modules]
    found.take_turns(plan, "fsexchange", ways, run)


def exchanges(found, base, plan):
    """Note the seconds of an Exchange's verbs and of its peers, measured by bench_exchange.py."""
    script = os.path.join(os.path.dirname(os.path.dirname(__file__)), "bench_exchange.py")
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "exchange")
        command = ["mpirun", "-n", "4", sys.executable, "-m", "mpi4py", script, base]
        command += ["--quick"] if plan.quick_exchange else []
        command += ["--output", output]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        with open(f"{output}.json") as file:
            found.exchange = json.load(file)
    for row in found.exchange.pop("rows"):
        ways = row["seconds"]
        if "limit" in ways:
            ways[EXCHANGE_LIMIT] = ways.pop("limit")
        label = exchanged(row["verb"], row["bytes"])
        found.seconds.setdefault(row["verb"], {})[label] = ways


def measure(base, kinds_before, plan):
    """Return what is found in a new directory in `base`; a second of one kind is named apart."""
    with tempfile.TemporaryDirectory(dir=base) as folder:
        kind = kind_of(folder)
        found = Found(f"{kind} {base}" if kind in kinds_before else kind)
        ways = {way: way(folder) for way in ALL}
        for case in cases(plan):
            compare(found, plan, case, [ways[way] for way in case.ways])
        first = not kinds_before
        if first:
            imports(found, plan)
        if first or plan.everywhere:
            among_many(found, folder, plan.live)
            exchanges(found, base, plan)
        for way in ways.values():
            way.close()
    return found
