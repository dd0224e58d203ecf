"""The picture of all figures."""

import statistics

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .peers import ALL, Bare, Ours
from .plan import (
    BATCH,
    BATCH_WORKS,
    EXCHANGE_LIMIT,
    EXCHANGE_PEERS,
    EXCHANGE_WORKS,
    WORKS,
)
from .words import GIB, LISTS, UNITS, duration


def position(label):
    """Return where to draw the size of an array; None for any other object."""
    label = "4000 KiB" if label == LISTS else label
    amount, unit = label.split(" ", 1)
    return max(64, float(amount) * UNITS[unit]) if unit in UNITS else None  # log 0 is nowhere


def styles():
    """Return how each way is drawn: ours bold, the limits dotted."""
    names = [*[way.name for way in ALL], *EXCHANGE_PEERS, EXCHANGE_LIMIT]
    found = {name: {"color": f"C{n}", "marker": "o"} for n, name in enumerate(names)}
    found[Ours.name] |= {"linewidth": 4, "markersize": 9, "zorder": 1.5}
    for name in (Bare.name, EXCHANGE_LIMIT):
        found[name] |= {"color": "black", "linestyle": ":", "linewidth": 3, "marker": "."}
    return found


def draw(path, everything):
    """Draw time over size: two rows of panels for each file system.

    The first row has a panel for each work and one for batches, the second for each verb of ranks.
    """
    matplotlib.rcParams["font.size"] = 15
    ticks = ["0 B", "1 KiB", "64 KiB", "1 MiB", "64 MiB", "1 GiB"]
    rows = [
        (found, works)
        for found in everything
        for works in (WORKS, EXCHANGE_WORKS)
        if works[0] in found.seconds
    ]
    figure = Figure(figsize=(24, 6 * len(rows) + 1), layout="constrained")
    axes = figure.subplots(len(rows), len(WORKS) + 1, sharey=True, squeeze=False)
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
