"""Figures in words: sizes, durations, ratios, and the spread of a figure over the rounds."""

import numpy as np

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
# Each rank passes 1,000 arrays to alltoall, in lists.
LISTS_VERB, LISTS = "alltoall of lists", "1,000 x 4 KiB"
UNITS = {"GiB": GIB, "MiB": MIB, "KiB": KIB, "B": 1}


def size(nbytes):
    for name, unit in UNITS.items():
        if nbytes >= unit:
            return f"{nbytes / unit:.4g} {name}"
    return f"{nbytes:g} B"


def exchanged(verb, nbytes):
    """Return what one rank passes to a verb of an Exchange."""
    return LISTS if verb == LISTS_VERB else size(nbytes)


def duration(seconds):
    for unit, name in ((1, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 1e-6:.3g} us"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(figures, text):
    """Return the median and the quartiles of the figures, each as `text` writes it."""
    low, median, high = map(text, np.quantile(figures, [0.25, 0.5, 0.75]))
    return median if low == high else f"{median} ({low} - {high})"


def quotients(ones, others):
    """Return `one / other` for each round that has both."""
    return [one / other for one, other in zip(ones, others, strict=False)]
