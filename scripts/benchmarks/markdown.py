"""The tables of BENCHMARKS.md."""

import itertools

from .peers import Bare, ProxyStore
from .plan import BATCH, BATCH_WORKS, EXCHANGE_LIMIT, EXCHANGE_PEERS, EXCHANGE_WORKS, WORKS
from .promises import TARGETS, TIME, Target
from .words import LISTS


def markdown_table(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *[row for row in rows if any(row[1:])]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ratios_table(everything, works, peers, limit):
    """Return our time for each work and file system, its ratio to each peer and to the limit."""
    head = [""]
    for found in everything:
        head += [found.kind, *[f"times as fast as {name}" for name in peers]]
        head += [f"times as long as {limit}"]
    rows = []
    for work, label in works:
        targets = [Target(work, label, TIME), *[Target(work, label, name, 1) for name in peers]]
        targets += [Target(work, label, limit)]
        cells = [target.median(found) for found in everything for target in targets]
        if any(cells):
            rows.append([f"{work}: {label}", *cells])
    return markdown_table(head, rows)


def markdown(everything, machine):
    """Return the tables of BENCHMARKS.md: objects, ranks, what is promised, and the machine."""
    works = list(itertools.product(WORKS, ("1 KiB", "1 MiB", "64 MiB", "1 GiB")))
    for label in ("1 KiB dict of arrays", "1 MiB dict of arrays", "1 MiB DataFrame"):
        works += [("put", label), ("get", label)]
    works += [(work, BATCH) for work in BATCH_WORKS]
    of_objects = ratios_table(everything, works, [ProxyStore.name], Bare.name)
    exchanged = [found for found in everything if EXCHANGE_WORKS[0] in found.seconds]
    verbs = [
        (verb, label)
        for verb in EXCHANGE_WORKS
        for label in (
            "5 B",
            "60 B",
            "1 KiB",
            "5 KiB",
            "300 KiB",
            "1 MiB",
            LISTS,
            "3 MiB",
            "16 MiB",
            "64 MiB",
        )
    ]
    of_ranks = ratios_table(exchanged, verbs, EXCHANGE_PEERS, EXCHANGE_LIMIT)
    head = ["", "against", "target", *[found.kind for found in everything]]
    rows = []
    for target in TARGETS:
        cells = [target.median(found) for found in everything]
        rows.append([f"{target.work}: {target.label}", *target.words(), *cells])
    sections = {
        "Objects": of_objects,
        "Ranks": of_ranks,
        "What is promised": markdown_table(head, rows),
        "Machine": ", ".join(f"{name} {value}" for name, value in machine.items()) + "\n",
    }
    return "\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
