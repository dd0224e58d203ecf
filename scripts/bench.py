"""Put, get and evict of fsexchange, its peers and bare system calls in turn, in one run.

Prints tables, at the end what was promised and what was measured; writes OUTPUT.json (every
figure), OUTPUT.md (the README's tables) and OUTPUT.png. See scripts/bench for how it is started.
"""

import argparse
import compileall
import gc
import itertools
import json
import math
import mmap
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from multiprocessing import shared_memory
from types import SimpleNamespace
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import proxystore
from proxystore.connectors.file import FileConnector as TheirConnector
from proxystore.store import Store as TheirStore
from rich.console import Console
from rich.table import Table

import fsexchange
from fsexchange import Store
from fsexchange.filesystem.kinds import find_filesystem

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
UNITS = {"GiB": GIB, "MiB": MIB, "KiB": KIB, "B": 1}
IOV_MAX = os.sysconf("SC_IOV_MAX")


class Way:
    """One way to exchange objects; what it has no verb for is a loop."""

    name: str

    def put_batch(self, objs):
        return [self.put(obj) for obj in objs]

    def get_batch(self, keys):
        return [self.get(key) for key in keys]

    def evict_batch(self, keys):
        for key in keys:
            self.evict(key)

    def close(self):
        pass


class Verbs(Way):
    """A store, by the verbs that it has."""

    def __init__(self, store):
        for verb in ("put", "get", "evict", "put_batch", "get_batch", "evict_batch", "close"):
            if hasattr(store, verb):
                setattr(self, verb, getattr(store, verb))


class Ours(Verbs):
    """fsexchange's Store."""

    name = "fsexchange"

    def __init__(self, folder):
        super().__init__(Store(f"{folder}/ours"))


class ProxyStore(Verbs):
    """ProxyStore's Store over its FileConnector, without its cache."""

    name = "ProxyStore"

    def __init__(self, folder):
        connector = TheirConnector(f"{folder}/theirs")
        super().__init__(TheirStore(str(uuid.uuid4()), connector, cache_size=0, register=True))


class Files(Way):
    """One file an object, named as the peer's user would have to."""

    def __init__(self, folder):
        self.prefix = f"{folder}/{self.name.replace(' ', '-')}-"
        self.count = 0

    def next(self):
        self.count += 1
        return f"{self.prefix}{self.count}.npy"

    def evict(self, path):
        os.unlink(path)


class Numpy(Files):
    """numpy.save and numpy.load, mapped copy-on-write."""

    name = "numpy"

    def put(self, array):
        path = self.next()
        np.save(path, array)
        return path

    def get(self, path):
        return np.load(path, mmap_mode="c" if os.path.getsize(path) > 128 else None)


class Joblib(Files):
    """joblib.dump and joblib.load, mapped copy-on-write."""

    name = "joblib"

    def put(self, obj):
        path = self.next()
        joblib.dump(obj, path)
        return path

    def get(self, path):
        return joblib.load(path, mmap_mode="c")


class SharedMemory(Way):
    """multiprocessing.shared_memory, whose user keeps shape and dtype elsewhere."""

    name = "shared_memory"

    def __init__(self, folder):
        self.opened = {}

    def put(self, array):
        block = shared_memory.SharedMemory(create=True, size=max(1, array.nbytes))
        np.ndarray(array.shape, array.dtype, buffer=block.buf)[:] = array
        return block

    def get(self, block):
        again = self.opened[block.name] = shared_memory.SharedMemory(block.name)
        return np.ndarray(block.size // 8, "f8", buffer=again.buf)

    def evict(self, block):
        self.opened.pop(block.name).close()
        block.close()
        block.unlink()


class Bare(Files):
    """The system calls that cannot be less: open, writev, close; open, read or mmap, close; unlink.

    A key is a path and a length, so nothing is asked of the file; what is got are bytes or a
    mapping of them, no object. A batch is one file, written and read as a whole.
    """

    name = "bare calls"

    def put(self, array):
        path, nbytes = self.next(), array.nbytes
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        assert os.writev(fd, [array]) == nbytes
        os.close(fd)
        return path, nbytes

    def get(self, key):
        path, nbytes = key
        fd = os.open(path, os.O_RDONLY)
        if nbytes < MIB:
            data = os.read(fd, nbytes)
        else:
            data = mmap.mmap(fd, nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        os.close(fd)
        return data

    def evict(self, key):
        os.unlink(key[0])

    def put_batch(self, arrays):
        path = self.next()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        nbytes = sum(os.writev(fd, arrays[n : n + IOV_MAX]) for n in range(0, len(arrays), IOV_MAX))
        os.close(fd)
        return path, nbytes

    def get_batch(self, key):
        path, nbytes = key
        fd = os.open(path, os.O_RDONLY)
        data = os.read(fd, nbytes)
        os.close(fd)
        return data

    def evict_batch(self, key):
        os.unlink(key[0])


ALL = [Ours, ProxyStore, Numpy, Joblib, SharedMemory, Bare]
OF_OBJECTS = [Ours, ProxyStore, Joblib]
CHIEF = [Ours, ProxyStore, Bare]
WORKS = ["put", "get", "get, sum", "evict"]
BATCH_WORKS = ["put_batch", "get_batch", "evict_batch"]
BATCH = "10,000 x 1 KiB"
LIVE, FIRST = "1 KiB, 100,000 live", "first 1,000"
NEEDED = "numpy, cloudpickle"
EXCHANGE_WORKS = ["bcast", "allgather", "alltoall", "alltoall of lists", "send"]
EXCHANGE_PEERS = ["mpi4py", "pkl5"]
EXCHANGE_LIMIT = "Bcast, Allgather"


class Plan(NamedTuple):
    """How much to measure: sizes in bytes, and objects in the loops of one round."""

    sizes: list[int]  # of arrays
    chief_sizes: list[int]  # of arrays by the chief ways alone
    object_sizes: list[int]
    rounds: int  # at most
    least: int  # rounds, however long they take
    seconds: float  # of the same, after which there are no further rounds
    objects: int
    together: int  # bytes of such objects at most
    live: list[type]  # ways to be seen among many live objects
    everywhere: bool  # do that and the Exchange in each directory, not in the first alone
    exchange_options: list[str]


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
    exchange_options=[],
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
    exchange_options=["--quick"],
)


class Target(NamedTuple):
    """What is promised: so many times as fast as another way, or at most so many times as long.

    Against `TIME` and `MEMORY`: at most so many seconds, or bytes beside the object. Infinity is
    no promise.
    """

    work: str
    label: str
    against: str
    at_least: float = 0
    at_most: float = math.inf

    def figures(self, found):
        """Return what was measured, of each round; nothing if this run had no such work."""
        kept = found.memory if self.against == MEMORY else found.seconds
        ways = kept.get(self.work, {}).get(self.label, {})
        ours, theirs = ways.get(Ours.name, []), ways.get(self.against, [])
        if self.against in (MEMORY, TIME):
            return ours
        return quotients(theirs, ours) if self.at_least else quotients(ours, theirs)

    def text(self, figure):
        if self.against == MEMORY:
            return size(figure)
        return duration(figure) if self.against == TIME else number(figure)

    def median(self, found):
        figures = self.figures(found)
        return self.text(statistics.median(figures)) if figures else ""

    def judged(self, found):
        """Return the median with its spread, and whether it is as promised."""
        figures = self.figures(found)
        if not figures:
            return ""
        met = self.at_least <= statistics.median(figures) <= self.at_most
        mark = "" if (self.at_least, self.at_most) == (0, math.inf) else " ✓" if met else " ✗"
        return spread(figures, self.text) + mark

    def words(self):
        """Return against what, and the promise."""
        if self.against in (MEMORY, TIME):
            return self.against, f"≤ {self.text(self.at_most)}"
        if self.at_least:
            return f"{self.against}: times as fast", f"≥ {self.at_least:g}"
        promise = f"≤ {self.at_most:g}" if self.at_most < math.inf else ""
        return f"{self.against}: times as long", promise


LISTS = "1,000 x 4 KiB"
TIME, MEMORY = "time", "memory beside the object"
TARGETS = [
    Target("put", "1 KiB", ProxyStore.name, at_least=5),
    Target("put", "1 KiB", Bare.name, at_most=1.7),
    Target("get", "1 KiB", ProxyStore.name, at_least=10),
    Target("get", "1 KiB", Bare.name, at_most=2),
    Target("evict", "1 KiB", ProxyStore.name, at_least=3),
    Target("evict", "1 KiB", Bare.name, at_most=1.3),
    Target("put_batch", BATCH, ProxyStore.name, at_least=30),
    Target("put_batch", BATCH, Bare.name),
    Target("get_batch", BATCH, ProxyStore.name, at_least=30),
    Target("get_batch", BATCH, Bare.name),
    Target("evict_batch", BATCH, Bare.name),
    Target("put", "64 MiB", ProxyStore.name, at_least=2),
    Target("put", "64 MiB", Bare.name, at_least=0.95),
    Target("put", "64 MiB", MEMORY, at_most=MIB / 2),
    Target("get", "256 MiB", TIME, at_most=100e-6),
    Target("get, sum", "256 MiB", ProxyStore.name, at_least=3),
    Target("get, sum", "256 MiB", Bare.name),
    Target("put", LIVE, f"{Ours.name}, {FIRST}", at_most=1.2),
    Target("get", LIVE, f"{Ours.name}, {FIRST}", at_most=1.2),
    Target("evict", LIVE, f"{Ours.name}, {FIRST}", at_most=1.2),
    Target("put", LIVE, Bare.name),
    Target("get", LIVE, Bare.name),
    Target("evict", LIVE, Bare.name),
    Target("import", "fsexchange", NEEDED, at_most=1.3),
    Target("bcast", "64 MiB", "mpi4py", at_least=4),
    Target("bcast", "64 MiB", "pkl5", at_least=1.5),
    Target("allgather", "16 MiB", "mpi4py", at_least=3),
    Target("bcast", "1 KiB", "mpi4py", at_most=1.3),
    Target("send", "1 KiB", "mpi4py", at_most=1.3),
    Target("alltoall of lists", LISTS, "pkl5", at_least=0.9),
]


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


def objects(nbytes):
    """Return what is exchanged besides plain arrays, of about `nbytes`."""
    columns = {name: np.arange(nbytes // 32) * 1.5 for name in "abcd"}
    large = {"dict of arrays": columns, "DataFrame": pd.DataFrame(columns)}
    small = {"str": "x" * nbytes, "dict": {str(n): n * 1.5 for n in range(nbytes // 16)}}
    return (small if nbytes <= KIB else {}) | (large if nbytes else {})


def total(obj):
    """Add up all arrays of what was got."""
    if isinstance(obj, dict):
        for value in obj.values():
            total(value)
    elif isinstance(obj, bytes | mmap.mmap):
        np.frombuffer(obj).sum()
    elif hasattr(obj, "sum"):
        obj.sum()


def once(way, obj, times):
    """Return the seconds of each work with `times` objects, one at a time.

    Loops are timed, not each call: looking at the clock takes too long beside a get of 4 us. A
    first get is not counted, so that one get of a large object finds the processor's caches as
    warm as 200 gets of small ones do.
    """
    clock = time.perf_counter
    start = clock()
    keys = [way.put(obj) for _ in range(times)]
    put = clock() - start
    way.get(keys[0])
    start = clock()
    got = [way.get(key) for key in keys]
    get = clock() - start
    for each in got:
        total(each)
    read = clock() - start
    del got, each
    start = clock()
    for key in keys:
        way.evict(key)
    evict = clock() - start
    seconds = [put, get, read, evict]
    return {work: value / times for work, value in zip(WORKS, seconds, strict=True)}


def once_batch(way, batch):
    """Return the seconds of each work with all objects in one call."""
    clock = time.perf_counter
    start = clock()
    keys = way.put_batch(batch)
    put = clock() - start
    start = clock()
    got = way.get_batch(keys)
    get = clock() - start
    del got
    start = clock()
    way.evict_batch(keys)
    return dict(zip(BATCH_WORKS, [put, get, clock() - start], strict=True))


def peak_memory():
    """Return the most memory that this process has had since `forget_peak`, in bytes: proc(5)."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def weigh(found, label, ways, obj):
    """Note the memory that one put, and one get without a look at it, take at their peak."""
    for way in ways:
        gc.collect()
        forget_peak()
        before = peak_memory()
        key = way.put(obj)
        note(found.memory, "put", label, way.name, peak_memory() - before)
        forget_peak()
        before = peak_memory()
        got = way.get(key)
        note(found.memory, "get", label, way.name, peak_memory() - before)
        del got
        way.evict(key)


def compare(found, plan, label, ways, obj, nbytes):
    """Note the seconds of every work of the ways with one object."""
    times = max(1, min(plan.objects, plan.together // max(1, nbytes)))
    if times > 1:
        for way in ways:
            once(way, obj, 2)
    else:  # the first way must not pay alone for pages that the file system has never had
        once(ways[-1], obj, 1)
    found.take_turns(plan, label, ways, lambda way: once(way, obj, times))


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
    """Note the seconds of importing fsexchange, and of what it cannot do without, in turn."""
    compileall.compile_dir(os.path.dirname(fsexchange.__file__), quiet=1)  # as pip does
    code = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    modules = {Ours.name: "fsexchange", NEEDED: NEEDED}

    def once(way):
        command = [sys.executable, "-c", code.format(modules[way.name])]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        return {"import": float(output)}

    ways = [SimpleNamespace(name=name) for name in modules]
    found.take_turns(plan, "fsexchange", ways, once)


def exchanges(found, base, options):
    """Note the seconds of an Exchange's verbs and of its peers, measured by bench_exchange.py."""
    script = os.path.join(os.path.dirname(__file__), "bench_exchange.py")
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = ["mpirun", "-n", "4", sys.executable, "-m", "mpi4py", script, base, *options]
        command += ["--output", file.name]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        found.exchange = json.load(file)
    for row in found.exchange.pop("rows"):
        ways = row["seconds"]
        if "limit" in ways:
            ways[EXCHANGE_LIMIT] = ways.pop("limit")
        lists = row["verb"] == "alltoall of lists"
        found.seconds.setdefault(row["verb"], {})[LISTS if lists else size(row["bytes"])] = ways


def measure(base, names, plan):
    """Return what is found in a new directory in `base`; of those before it the `names` are."""
    with tempfile.TemporaryDirectory(dir=base) as folder:
        kind = find_filesystem(folder).kind
        found = Found(f"{kind} {base}" if kind in names else kind)
        ways = {way: way(folder) for way in ALL}
        every, chief, general = ([ways[way] for way in some] for some in (ALL, CHIEF, OF_OBJECTS))
        for nbytes in plan.sizes:
            array = np.ones(nbytes // 8)
            if nbytes >= MIB:
                weigh(found, size(nbytes), every, array)
            compare(found, plan, size(nbytes), every, array, nbytes)
        for nbytes in plan.chief_sizes:
            compare(found, plan, size(nbytes), chief, np.ones(nbytes // 8), nbytes)
        for nbytes in plan.object_sizes:
            for label, obj in objects(nbytes).items():
                compare(found, plan, f"{size(nbytes)} {label}", general, obj, nbytes)
        batch = [np.full(128, n, "f8") for n in range(10_000)]
        found.take_turns(plan, BATCH, chief, lambda way: once_batch(way, batch))
        if not names:
            imports(found, plan)
        if not names or plan.everywhere:
            among_many(found, folder, plan.live)
            exchanges(found, base, plan.exchange_options)
        for way in every:
            way.close()
    return found


def quotients(ones, others):
    """Return how many times as long the ones took as the others, of each round that has both."""
    return [one / other for one, other in zip(ones, others, strict=False)]


def size(nbytes):
    for name, unit in UNITS.items():
        if nbytes >= unit:
            return f"{nbytes / unit:.4g} {name}"
    return f"{nbytes:g} B"


def position(label):
    """Return where to draw the size of an array, or None: no array, but another object."""
    label = "4000 KiB" if label == LISTS else label
    amount, unit = label.split(" ", 1)
    return max(64, float(amount) * UNITS[unit]) if unit in UNITS else None  # log 0 is nowhere


def duration(seconds):
    for unit, name in ((1, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 1e-6:.3g} us"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(figures, text):
    """Return the median, and between which two the middle half of the figures is."""
    low, median, high = map(text, np.quantile(figures, [0.25, 0.5, 0.75]))
    return median if low == high else f"{median} ({low} - {high})"


def show(console, title, corner, rows):
    """Print a row a work or object: our time and its spread, and the ratio to each other way."""
    names = list(dict.fromkeys(name for _, ways in rows for name in ways if name != Ours.name))
    table = Table(title=f"{title}: time; how many times as long as fsexchange")
    for column in (corner, Ours.name, *names):
        table.add_column(column, justify="right")
    for label, ways in rows:
        ours = ways[Ours.name]
        ratios = {name: statistics.median(quotients(ways[name], ours)) for name in ways}
        cells = (number(ratios[name]) if name in ratios else "" for name in names)
        table.add_row(label, spread(ours, duration), *cells)
    console.print(table)


def show_all(console, found):
    """Print a table for each work, one for batches, one for memory."""
    for work in WORKS:
        rows = [(label, ways) for label, ways in found.seconds[work].items() if label != LIVE]
        show(console, f"{work}, {found.kind}", "object", rows)
    rows = [(work, found.seconds[work][BATCH]) for work in BATCH_WORKS]
    show(console, f"{BATCH}, {found.kind}", "work", rows)
    rows = [(work, found.seconds[work].get(LIVE)) for work in ("put", "get", "evict")]
    if all(ways for _, ways in rows):
        show(console, f"{LIVE}, {found.kind}", "work", rows)
    table = Table(title=f"peak memory beside the object, {found.kind}")
    for column in ("work", "object", *[way.name for way in ALL]):
        table.add_column(column, justify="right")
    for work, label in itertools.product(("put", "get"), found.memory["put"]):
        memory = found.memory[work][label]
        cells = (size(memory[way.name][0]) if way.name in memory else "" for way in ALL)
        table.add_row(work, label, *cells)
    console.print(table)


def show_targets(console, everything):
    """Print what is promised, and what was measured on each file system."""
    table = Table(title="what is promised, and medians (quartiles) of the rounds")
    for column in ("work", "object", "against", "target", *[found.kind for found in everything]):
        table.add_column(column)
    for target in TARGETS:
        cells = [target.judged(found) for found in everything]
        if any(cells):
            table.add_row(target.work, target.label, *target.words(), *cells)
    console.print(table)


def markdown_table(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *[row for row in rows if any(row[1:])]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ratios_table(everything, works, peers, limit):
    """Return for each work and file system our time, its ratio to each peer and to the limit."""
    head = [""]
    for found in everything:
        head += [found.kind, *[f"times as fast as {name}" for name in peers]]
        head += [f"times as long as {limit}"]
    rows = []
    for work, label in works:
        targets = [Target(work, label, TIME), *[Target(work, label, name, 1) for name in peers]]
        targets += [Target(work, label, limit)]
        cells = [target.median(found) for found in everything for target in targets]
        rows.append([f"{work}: {label}", *cells])
    return markdown_table(head, rows)


def markdown(everything, machine):
    """Return the README's tables: what each work takes, verbs of an Exchange, and the promises."""
    works = list(itertools.product(WORKS, ("1 KiB", "1 MiB", "64 MiB", "1 GiB")))
    for label in ("1 KiB dict of arrays", "1 MiB dict of arrays", "1 MiB DataFrame"):
        works += [("put", label), ("get", label)]
    works += [(work, BATCH) for work in BATCH_WORKS]
    tables = [ratios_table(everything, works, [ProxyStore.name], Bare.name)]
    exchanged = [found for found in everything if EXCHANGE_WORKS[0] in found.seconds]
    verbs = [
        (verb, label)
        for verb in EXCHANGE_WORKS
        for label in ("1 KiB", "1 MiB", LISTS, "16 MiB", "64 MiB")
    ]
    tables += [ratios_table(exchanged, verbs, EXCHANGE_PEERS, EXCHANGE_LIMIT)]
    head = ["", "against", "target", *[found.kind for found in everything]]
    rows = []
    for target in TARGETS:
        cells = [target.median(found) for found in everything]
        rows.append([f"{target.work}: {target.label}", *target.words(), *cells])
    tables += [markdown_table(head, rows)]
    about = ", ".join(f"{name} {value}" for name, value in machine.items())
    return "\n".join([f"{about}\n", *tables])


def styles():
    """Return how each way is drawn: ours bold, the limits dotted."""
    names = [*[way.name for way in ALL], *EXCHANGE_PEERS, EXCHANGE_LIMIT]
    found = {name: {"color": f"C{n}", "marker": "o"} for n, name in enumerate(names)}
    found[Ours.name] |= {"linewidth": 4, "markersize": 9, "zorder": 1.5}
    for name in (Bare.name, EXCHANGE_LIMIT):
        found[name] |= {"color": "black", "linestyle": ":", "linewidth": 3, "marker": "."}
    return found


def draw(path, everything):
    """Draw time over size: for each file system a row of panels with a work or batches each,
    and one with a verb of an Exchange each.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    pyplot.rcParams["font.size"] = 15
    ticks = ["0 B", "1 KiB", "64 KiB", "1 MiB", "64 MiB", "1 GiB"]
    rows = [
        (found, works)
        for found in everything
        for works in (WORKS, EXCHANGE_WORKS)
        if works[0] in found.seconds
    ]
    figure, axes = pyplot.subplots(
        len(rows),
        len(WORKS) + 1,
        figsize=(24, 6 * len(rows) + 1),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    drawn = {}
    for (found, works), panels in zip(rows, axes, strict=True):
        for panel, work in zip(panels, works, strict=False):
            arrays = {position(label): ways for label, ways in found.seconds.get(work, {}).items()}
            arrays.pop(None, None)
            for name, style in styles().items():
                medians = {at: statistics.median(w[name]) for at, w in arrays.items() if name in w}
                if medians:
                    (drawn[name],) = panel.plot(medians.keys(), medians.values(), **style)
            panel.set(title=f"{work}: {found.kind}", xlabel="size of the array", xscale="log")
            panel.set_xlim(position("0 B") / 2, 2 * GIB)
            panel.set_xticks([position(label) for label in ticks], ticks, rotation=45)
            panel.minorticks_off()
            panel.set_visible(bool(arrays))
        if works is WORKS:
            batches = [found.seconds[work][BATCH] for work in BATCH_WORKS]
            for name, style in styles().items():
                if name in batches[0]:
                    medians = [statistics.median(ways[name]) for ways in batches]
                    panels[-1].plot(BATCH_WORKS, medians, **style)
            panels[-1].set(title=f"{BATCH}: {found.kind}")
            panels[-1].margins(x=0.15)
        for panel in panels:
            panel.grid(alpha=0.4)
    axes[0][0].set_yscale("log")
    axes[0][0].yaxis.set_major_locator(LogLocator(numticks=12))
    axes[0][0].yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))
    axes[0][0].yaxis.set_minor_formatter(NullFormatter())
    figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=len(drawn))
    figure.savefig(path, dpi=80)


def cpu():
    with open("/proc/cpuinfo") as lines:
        return next((line.split(": ")[1].strip() for line in lines if "model name" in line), "?")


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("directory", nargs="*", help="where to put files (/dev/shm)")
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds: 45 seconds")
    parser.add_argument(
        "--rounds", type=int, help=f"of each, at most ({FULL.rounds}; quick: {QUICK.rounds})"
    )
    parser.add_argument("--output", default="bench", help="writes OUTPUT.json, .md, .png (bench)")
    options = parser.parse_intermixed_args()
    plan = QUICK if options.quick else FULL
    plan = plan._replace(rounds=options.rounds or plan.rounds)
    console = Console(width=140)
    gc.disable()
    gc.freeze()
    everything = []
    for base in options.directory or ["/dev/shm"]:
        taken = [found.kind for found in everything]
        everything.append(measure(base, taken, plan))
        show_all(console, everything[-1])
    show_targets(console, everything)
    machine = {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "proxystore": proxystore.__version__,
        "joblib": joblib.__version__,
    }
    with open(f"{options.output}.json", "w") as file:
        json.dump({"machine": machine, "file systems": [vars(f) for f in everything]}, file)
    with open(f"{options.output}.md", "w") as file:
        file.write(markdown(everything, machine))
    draw(f"{options.output}.png", everything)
    console.print(f"{machine}\nwrote {options.output}.json, .md and .png")


if __name__ == "__main__":
    sys.exit(main())
