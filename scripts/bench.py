"""Measure put, get and evict of fsexchange, its peers and bare system calls in turn, in one run.

Prints tables, at the end the promises beside what was measured; writes OUTPUT.json (every
figure), OUTPUT.md (the tables of BENCHMARKS.md) and OUTPUT.png. With --against it compares this
checkout with another one instead, and prints a table. scripts/bench shows how to start it.
"""

import argparse
import gc
import json

import joblib
import proxystore
from rich.console import Console

from benchmarks import checkouts, machine, tables
from benchmarks.markdown import markdown
from benchmarks.measuring import measure
from benchmarks.picture import draw
from benchmarks.plan import FULL, PLANS, QUICK


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("directory", nargs="*", help="where to put files (/dev/shm)")
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds: 45 seconds")
    parser.add_argument(
        "--rounds", type=int, help=f"of each, at most ({FULL.rounds}; quick: {QUICK.rounds})"
    )
    parser.add_argument("--output", default="bench", help="writes OUTPUT.json, .md, .png (bench)")
    parser.add_argument("--against", metavar="DIR", help="compare with the fsexchange in DIR")
    options = parser.parse_intermixed_args()
    plan_name = "quick" if options.quick else "full"
    plan = PLANS[plan_name]
    plan = plan._replace(rounds=options.rounds or plan.rounds)
    bases = options.directory or ["/dev/shm"]
    console = Console(width=140)
    if options.against:
        checkouts.show(console, checkouts.compare(options.against, bases, plan_name))
        return
    gc.disable()
    gc.freeze()
    everything = []
    for base in bases:
        kinds = [found.kind for found in everything]
        everything.append(measure(base, kinds, plan))
        tables.show_all(console, everything[-1])
    tables.show_targets(console, everything)
    about = machine.about(proxystore=proxystore.__version__, joblib=joblib.__version__)
    with open(f"{options.output}.json", "w") as file:
        json.dump({"machine": about, "file systems": [vars(f) for f in everything]}, file)
    with open(f"{options.output}.md", "w") as file:
        file.write(markdown(everything, about))
    draw(f"{options.output}.png", everything)
    console.print(f"{about}\nwrote {options.output}.json, .md and .png")


if __name__ == "__main__":
    main()
