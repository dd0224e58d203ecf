"""The promises of fsexchange, and whether measurements keep them."""

import math
import statistics
from typing import NamedTuple

from .peers import Bare, Ours, ProxyStore
from .plan import BATCH, FIRST, LIVE, NEEDED
from .words import LISTS, LISTS_VERB, MIB, duration, number, quotients, size, spread

TIME, MEMORY = "time", "memory beside the object"


class Target(NamedTuple):
    """A promise: at least N times as fast as another way, or at most N times as long.

    Against `TIME` and `MEMORY` it is a limit in seconds, or in bytes beside the object. Infinity
    promises nothing: the figure is shown only.
    """

    work: str
    label: str
    against: str
    at_least: float = 0
    at_most: float = math.inf

    def figures(self, found):
        """Return what each round measured; nothing if this run had no such work."""
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
        """Return the median with its spread, marked for whether it keeps the promise."""
        figures = self.figures(found)
        if not figures:
            return ""
        met = self.at_least <= statistics.median(figures) <= self.at_most
        mark = "" if (self.at_least, self.at_most) == (0, math.inf) else " ✓" if met else " ✗"
        return spread(figures, self.text) + mark

    def words(self):
        """Return what it is measured against, and the promise."""
        if self.against in (MEMORY, TIME):
            return self.against, f"≤ {self.text(self.at_most)}"
        if self.at_least:
            return f"{self.against}: times as fast", f"≥ {self.at_least:g}"
        promise = f"≤ {self.at_most:g}" if self.at_most < math.inf else ""
        return f"{self.against}: times as long", promise


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
    Target(LISTS_VERB, LISTS, "pkl5", at_least=0.9),
]
