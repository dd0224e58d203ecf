"""Count what one call of each collective asks for, and say how that grows; see scripts/scale.

Ranks of this machine take themselves for ranks of several hosts. Each verb goes by memory of the
hosts, and once more by files of the store, as where that memory does not suffice.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.scaling import (
    FIGURES,
    OBJECT,
    RATES,
    SMALL,
    at,
    figures_of,
    formula,
    seconds,
    written,
)
from benchmarks.words import duration, size

WAYS = {"memory": "by memory of the hosts", "store": "by files of the store"}
PREDICTED = [64, 256, 1024, 4096, 16384]
NEAR = 64  # ranks of a host, of those


def job(n, hosts, way):
    """Return the figures of all verbs in a job of `n` ranks."""
    with tempfile.TemporaryDirectory(prefix="fsexchange-scale-", dir="/dev/shm") as folder:
        shared, logs = Path(folder, "shared"), Path(folder, "logs")
        shared.mkdir(mode=0o700)
        logs.mkdir()
        tracer = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-ff", "-o", f"{logs}/of"]
        tracer += ["-e", "trace=%file,%desc,memfd_create"]
        worker = [sys.executable, "-m", "mpi4py", "-m", "benchmarks.scale_worker"]
        done = subprocess.run(
            ["mpirun", "-n", str(n), *tracer, *worker, str(n // hosts), way, str(shared)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "MALLOC_MMAP_THRESHOLD_": "1000000",  # else it keeps what is freed
            },
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        texts = [log.read_text(errors="replace") for log in logs.iterdir()]
        return figures_of(lines, texts, f"{shared}/", n // hosts)


def measured(ranks, hosts):
    """Return {(way, verb, bytes): {(ranks, hosts): figures}}; all hosts have two ranks or more."""
    found = {}
    for way in WAYS:
        for n in ranks:
            for h in hosts:
                if n % h == 0 and n >= 2 * h:
                    print(f"{n} ranks, hosts: {h}, {WAYS[way]}", file=sys.stderr)
                    for (verb, nbytes), figures in job(n, h, way).items():
                        found.setdefault((way, verb, nbytes), {})[n, h] = figures
    return found


def formulas(points):
    """Return {(figure, whether there are several hosts): formula}."""
    return {
        (name, several): formula(
            {at: figures[name] for at, figures in points.items() if (at[1] > 1) == several}
        )
        for name in FIGURES
        for several in (False, True)
    }


def predicted(fits, n):
    """Return the figures on `n` ranks, and the seconds."""
    hosts = max(1, n // NEAR)
    figures = {name: at(fits[name, hosts > 1], n, hosts) for name in FIGURES}
    return {**figures, "seconds": seconds(figures, n, hosts)}


def cell(name, value):
    if value is None:
        return "?"
    if name == "seconds":
        return duration(value)
    if "bytes" in name:
        return size(value)
    return f"{value:,}" if value < 10**9 else f"{value:.3g}"


def show(way, found):
    """Print the tables of a way: what was measured, with formulas, and what is predicted."""
    console = Console(width=200)
    rows = [(verb, nbytes, points) for (each, verb, nbytes), points in found.items() if each == way]
    table = Table(title=f"{WAYS[way]}: measured, n ranks, h hosts", show_lines=True)
    for column in ("verb", "object", "hosts", "ranks", *FIGURES):
        table.add_column(column, justify="right")
    for verb, nbytes, points in rows:
        fits = formulas(points)
        for hosts in sorted({h for _, h in points}):
            here = {n: figures for (n, h), figures in points.items() if h == hosts}
            cells = (
                "\n".join([*[cell(name, figures[name]) for figures in here.values()]])
                + (f"\n{written(fits[name, hosts > 1])}" if hosts < 3 else "")
                for name in FIGURES
            )
            table.add_row(verb, size(nbytes), str(hosts), "\n".join(map(str, here)), *cells)
    console.print(table)
    table = Table(title=f"{WAYS[way]}: predicted, {NEAR} ranks a host")
    for column in ("verb", "object", "ranks", *FIGURES, "seconds"):
        table.add_column(column, justify="right")
    for verb, nbytes, points in rows:
        fits = formulas(points)
        for n in PREDICTED:
            figures = predicted(fits, n)
            cells = [cell(name, value) for name, value in figures.items()]
            table.add_row(verb, size(nbytes), str(n), *cells, end_section=n == PREDICTED[-1])
    console.print(table)


def numbers(text):
    return [int(each) for each in text.split(",")]


def main():
    parser = argparse.ArgumentParser(prog="scripts/scale", description=__doc__)
    parser.add_argument("--ranks", type=numbers, default=[2, 4, 8, 12, 16], help="2,4,8,12,16")
    parser.add_argument("--hosts", type=numbers, default=[1, 2, 4, 8], help="1,2,4,8")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    options = parser.parse_args()
    if shutil.which("strace") is None:
        parser.error("needs strace")
    found = measured(options.ranks, options.hosts)
    if not options.json:
        for way in WAYS:
            show(way, found)
        words = "; ".join(f"{name}: {meaning}" for name, meaning in FIGURES.items())
        print(f"{words}.\nA small object is a number, a large one {size(OBJECT)}. Rates: {RATES}.")
        return
    rows = []
    for (way, verb, nbytes), points in found.items():
        fits = formulas(points)
        rows.append(
            {
                "way": way,
                "verb": verb,
                "object": "small" if nbytes == SMALL else "large",
                "measured": [{"ranks": n, "hosts": h, **all_} for (n, h), all_ in points.items()],
                "formulas": {
                    name: [written(fits[name, several]) for several in (False, True)]
                    for name in FIGURES
                },
                "predicted": [{"ranks": n, **predicted(fits, n)} for n in PREDICTED],
            }
        )
    json.dump({"figures": FIGURES, "rates": RATES, "rows": rows}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
