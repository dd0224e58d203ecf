"""The tables of the kinds of objects, for a terminal and for BENCHMARKS.md."""

import statistics

from rich.table import Table

from .kinds import NAMED
from .markdown import markdown_table
from .peers import OF_KINDS, Ours
from .words import duration, number, quotients, size

OWN = "its own way"
PEERS = [way.name for way in OF_KINDS[1:]]
WORKS = ("put", "get")


def own(name):
    way = NAMED[name].own
    return way.name if way else None


def ways_of(name):
    """Return the columns of the peers, and the name of each in what was measured."""
    return {**{peer: peer for peer in PEERS}, OWN: own(name)}


def times_as_fast(figures, way, work):
    if way not in figures:
        return ""
    return number(statistics.median(quotients(figures[way][work], figures[Ours.name][work])))


def seconds_rows(found, nth):
    """Return head and rows for the nth size: our time, and how many times as fast as each peer."""
    head = ["", *[cell for work in WORKS for cell in (work, *PEERS, OWN)], ""]
    rows = []
    for name, measured in found.items():
        sizes = list(measured["seconds"])
        if nth >= len(sizes):
            continue
        figures = measured["seconds"][sizes[nth]]
        row = [name]
        for work in WORKS:
            row.append(duration(statistics.median(figures[Ours.name][work])))
            row += [times_as_fast(figures, way, work) for way in ways_of(name).values()]
        rows.append([*row, (own(name) or "") if own(name) in figures else ""])
    return head, rows


def memory_rows(found):
    """Return head and rows: the memory of put and get over the largest object's size."""
    head = ["", "size", *WORKS, *[f"{work}, {OWN}" for work in WORKS]]
    rows = []
    for name, measured in found.items():
        nbytes = int(list(measured["seconds"])[-1])
        row = [name, size(nbytes)]
        for way in (Ours.name, own(name)):
            weighed = measured["memory"].get(way)
            row += [f"{weighed[work] / nbytes:.2f}" if weighed else "" for work in WORKS]
        rows.append(row)
    return head, rows


def small_rows(small):
    head = ["us", "dumps", "pickle.dumps", "deserialize", "pickle.loads"]
    rows = [
        [name, *[f"{1e6 * statistics.median(figures[work]):.2f}" for work in head[1:]]]
        for name, figures in small.items()
    ]
    return head, rows


def tables(found, small):
    """Yield a title, a head and rows."""
    yield "Memory over the object's size", *memory_rows(found)
    for nth, label in enumerate(("1 KiB", "64 KiB", "64 MiB, or the size above")):
        yield f"{label}: times, and how many times as fast as each peer", *seconds_rows(found, nth)
    if small:
        yield "dumps and deserialize beside pickle", *small_rows(small)


def show(console, found, small):
    for title, head, rows in tables(found, small):
        table = Table(title=title)
        for column in head:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def markdown(found, small, machine):
    """Return the tables of BENCHMARKS.md, and the machine."""
    text = "".join(
        f"### {title}\n\n{markdown_table(head, rows)}\n"
        for title, head, rows in tables(found, small)
    )
    return f"{text}({', '.join(f'{name} {value}' for name, value in machine.items())})\n"
