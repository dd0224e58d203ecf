"""Tables for a terminal."""

import itertools
import statistics

from rich.table import Table

from .peers import ALL, Ours
from .plan import BATCH, BATCH_WORKS, LIVE, WORKS
from .promises import TARGETS
from .words import duration, number, quotients, size, spread


def show(console, title, corner, rows):
    """Print a row for each work or object: our time, its spread, the ratio to each other way."""
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
    """Print a table for each work, one for batches, and one for memory."""
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
    """Print each promise, and what was measured on each file system."""
    table = Table(title="what is promised, and medians (quartiles) of the rounds")
    for column in ("work", "object", "against", "target", *[found.kind for found in everything]):
        table.add_column(column)
    for target in TARGETS:
        cells = [target.judged(found) for found in everything]
        if any(cells):
            table.add_row(target.work, target.label, *target.words(), *cells)
    console.print(table)
