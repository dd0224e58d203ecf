"""Measure memory and seconds of put and get of many kinds of objects, and small objects' dumps.

Prints tables; writes OUTPUT.json (every figure) and OUTPUT.md (the tables of BENCHMARKS.md).
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version

from rich.console import Console

from benchmarks import machine
from benchmarks.kind_plan import KIND_PLANS
from benchmarks.kind_tables import markdown, show
from benchmarks.kinds import KINDS
from benchmarks.peers import Ours

SCRIPTS = os.path.dirname(os.path.abspath(__file__))
# So that memory that was freed is not there for the next to use: of malloc, pyarrow, polars.
GIVE_BACK = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0",
}


def run(*arguments, **environment):
    """Return what a process prints as JSON; None if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=SCRIPTS,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


def measure(kind, plan_name, base):
    """Return the seconds of every way by size, and the memory of two with the largest."""
    plan = KIND_PLANS[plan_name]
    worker, memory = ("-m", "benchmarks.kind_worker"), {}
    with tempfile.TemporaryDirectory(dir=base) as folder:
        seconds = run(*worker, "time", plan_name, kind.name, folder)
    for way in (Ours, kind.own):
        if seconds and way is not None and way.name in seconds[str(kind.nbytes(plan.sizes[-1]))]:
            with tempfile.TemporaryDirectory(dir=base) as folder:
                found = run(*worker, "weigh", plan_name, kind.name, folder, way.name, **GIVE_BACK)
            if found:
                memory[way.name] = found
    return {"seconds": seconds, "memory": memory} if seconds else None


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench-objects", description=__doc__)
    parser.add_argument("kind", nargs="*", help="only kinds with one of these in their names")
    parser.add_argument("--quick", action="store_true", help="few rounds: 15 minutes")
    parser.add_argument("--directory", default="/dev/shm", help="where to put files (/dev/shm)")
    parser.add_argument(
        "--output", default="bench-objects", help="writes OUTPUT.json and .md (bench-objects)"
    )
    options = parser.parse_args()
    plan_name = "quick" if options.quick else "full"
    console = Console(width=160)
    kinds = [k for k in KINDS if not options.kind or any(word in k.name for word in options.kind)]
    found, libraries = {}, {}
    for kind in kinds:
        lacking = [name for name in kind.libraries if importlib.util.find_spec(name) is None]
        if lacking:
            console.print(f"{kind.name}: skipped, as {' and '.join(lacking)} is not installed")
            continue
        libraries.update({name: version(name) for name in kind.libraries if name != "fsexchange"})
        if sys.stderr.isatty():
            print(kind.name, file=sys.stderr)
        measured = measure(kind, plan_name, options.directory)
        if measured is None:
            console.print(f"{kind.name}: failed")
        else:
            found[kind.name] = measured
    small = run("bench_small_objects.py") if not options.kind else []
    libraries.update({name: version(name) for name in ("proxystore", "joblib")})
    libraries.pop("numpy", None)
    about = {**machine.about(**libraries), "file system": machine.kind_of(options.directory)}
    with open(f"{options.output}.json", "w") as file:
        json.dump({"machine": about, "kinds": found, "small": small}, file)
    show(console, found, small)
    with open(f"{options.output}.md", "w") as file:
        file.write(markdown(found, small, about))
    console.print(f"{about}\nwrote {options.output}.json and .md")


if __name__ == "__main__":
    main()
