"""Two checkouts of fsexchange in turn, in one run: is this one as fast as the other?

Each checkout is measured in processes of its own, because both packages have the same name. Two
processes take turns of some milliseconds, in alternating order: whatever slows down the machine
for longer slows down both, and only their ratio in each round counts. The addresses that a process
gets can make it some per cent faster as long as it lives, so both are started several times. Rows
that look slower after that are measured as many times again before they count.
"""

import compileall
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.table import Table

from .machine import kind_of
from .measuring import IMPORT
from .plan import PLANS
from .words import duration, number, quotients, spread

HERE = Path(__file__).resolve().parents[2]
SLOWER = 1.1  # times as long as the other checkout: worth a look


class Worker:
    """A checkout that measures."""

    def __init__(self, checkout, command):
        self.checkout = checkout
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **environment(checkout),
        )
        imported = Path(self.answer()["imported"])
        if imported.parents[1] != checkout:
            raise SystemExit(f"{checkout} is no checkout of fsexchange: imported {imported}")

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker of {self.checkout} ended, status {self.process.wait()}")
        return json.loads(line)

    def ask(self, command, times=None):
        print(json.dumps([command, times]), file=self.process.stdin, flush=True)
        return self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def environment(checkout):
    """Return the place and the environment of a process that is to import a checkout."""
    path = os.pathsep.join([str(checkout), str(HERE / "scripts")])
    return {"cwd": checkout, "env": {**os.environ, "PYTHONPATH": path}}


class Row:
    """One object, or one verb of ranks with a size: pairs of seconds, a pair for each round."""

    def __init__(self, label):
        self.label = label
        self.seconds = {}  # by work

    def note(self, ours, theirs):
        for work, seconds in ours.items():
            self.seconds.setdefault(work, []).append((seconds, theirs[work]))

    def is_slower(self):
        return any(median_ratio(pairs) > SLOWER for pairs in self.seconds.values())


def median_ratio(pairs):
    return statistics.median(ours / theirs for ours, theirs in pairs)


class Comparison:
    """Both checkouts in one directory."""

    def __init__(self, other, base, plan_name):
        self.checkouts = [HERE, other]
        self.base, self.plan_name, self.plan = base, plan_name, PLANS[plan_name]
        self.kind = kind_of(base)
        self.rows = {}  # by module of the worker and place in its list

    def objects(self, again=False):
        self.start("object_worker", [], again)

    def ranks(self, again=False):
        self.start("rank_worker", ["mpirun", "-n", "4"], again)

    def start(self, module, launcher, again):
        """Start a worker of each checkout, and measure their rows in turn; again: the slower."""
        if again and not any(row.is_slower() for (of, _), row in self.rows.items() if of == module):
            return
        options = ["-m", "mpi4py"] if launcher else []
        command = [*launcher, sys.executable, *options, "-m", f"benchmarks.{module}"]
        with tempfile.TemporaryDirectory(dir=self.base) as folder:
            places = [tempfile.mkdtemp(dir=folder) for _ in self.checkouts]
            commands = [[*command, place, self.plan_name] for place in places]
            here, there = map(Worker, self.checkouts, commands)
            with here, there:
                for n in itertools.count():
                    prepared = here.ask("next")
                    assert there.ask("next")["label"] == prepared["label"]
                    if prepared["label"] is None:
                        break
                    row = self.rows.setdefault((module, n), Row(prepared["label"]))
                    if not again or row.is_slower():
                        self.measure(row, here, there, prepared["times"])

    def measure(self, row, here, there, times):
        if sys.stderr.isatty():
            print(f"{self.kind}: {row.label}", file=sys.stderr)
        order = [here, there]
        for worker in order:  # the first loop pays for pages that nobody has had yet
            worker.ask("measure", times)
        start, done = time.perf_counter(), 0
        while done < self.plan.least or time.perf_counter() - start < self.plan.seconds_against:
            order.reverse()
            seconds = {worker: worker.ask("measure", times) for worker in order}
            row.note(seconds[here], seconds[there])
            done += 1

    def imports(self, again=False, rounds=8):
        row = self.rows.setdefault(("import", 0), Row("fsexchange"))
        if again and not row.is_slower():
            return
        order = list(self.checkouts)
        for _ in range(rounds):
            order.reverse()
            seconds = {}
            for checkout in order:
                command = [sys.executable, "-c", IMPORT.format("fsexchange")]
                output = subprocess.check_output(command, **environment(checkout))
                seconds[checkout] = {"import": float(output)}
            row.note(*map(seconds.get, self.checkouts))


def compare(other, bases, plan_name):
    """Return a comparison in each directory."""
    other = Path(other).resolve()
    for checkout in (HERE, other):
        compileall.compile_dir(checkout / "fsexchange", quiet=1)  # as pip does
    comparisons = []
    for base in bases:
        comparison = Comparison(other, base, plan_name)
        parts = [comparison.objects]
        if not comparisons:
            parts.append(comparison.imports)
        if not comparisons or comparison.plan.everywhere:
            parts.append(comparison.ranks)
        for again in (False, True):
            for _, part in itertools.product(range(comparison.plan.starts), parts):
                part(again=again)
        comparisons.append(comparison)
    return comparisons


def show(console, comparisons):
    """Print a row for each work and object; a row in which this checkout is slower stands out."""
    other = comparisons[0].checkouts[1]
    table = Table(title=f"this checkout, {other}, and how many times as long this one takes")
    table.add_column("work")
    table.add_column("object")
    rows = {}
    for comparison in comparisons:
        for column in (comparison.kind, "the other", "ratio (quartiles)"):
            table.add_column(column, justify="right")
        for row in comparison.rows.values():
            for work, pairs in row.seconds.items():
                rows.setdefault((work, row.label), {})[comparison] = pairs
    slower = []
    for (work, label), found in rows.items():
        cells = []
        for comparison in comparisons:
            if comparison in found:
                ours, theirs = zip(*found[comparison], strict=True)
                cells += [duration(statistics.median(each)) for each in (ours, theirs)]
                cells.append(spread(quotients(ours, theirs), number))
            else:
                cells += [""] * 3
        is_slower = any(median_ratio(pairs) > SLOWER for pairs in found.values())
        if is_slower:
            slower.append(f"{work}: {label}")
        table.add_row(work, label, *cells, style="bold red" if is_slower else None)
    console.print(table)
    count = f"{len(slower)} of {len(table.rows)} rows are above {SLOWER}"
    console.print(count, *slower, sep="\n  ")
