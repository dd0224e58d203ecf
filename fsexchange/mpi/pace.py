"""Pace: which of two ways is the faster one, found by taking both."""

from __future__ import annotations

from collections import defaultdict, deque
from time import perf_counter

# Calls of which the fastest tells how fast a way is, as some wait for ranks that come late, or get
# fresh memory; and every how many calls of a length the other way is taken.
_LATEST, _TRIED_EVERY = 3, 32


class _Length:
    """What is known of messages of about one length."""

    def __init__(self) -> None:
        self.calls = 0
        self.way, self.since, self.nbytes = False, 0.0, 0
        self.paces: tuple[deque[float], deque[float]] = deque(maxlen=_LATEST), deque(maxlen=_LATEST)


class Pace:
    """Of two ways, False and True, the one in which calls followed one another faster lately.

    A way costs more than its call where it leaves the caller's array in the caches of other cores:
    the next write to it must take it from there. So what counts is the time from call to call.
    Which way is faster depends on the machine, and on which of its cores the ranks are now.
    """

    def __init__(self) -> None:
        self._lengths: defaultdict[int, _Length] = defaultdict(_Length)

    def way(self, nbytes: int) -> bool:
        """Return the way to take for a call that begins now, of so many bytes."""
        last, now = self._lengths[nbytes.bit_length()], perf_counter()
        if last.calls:
            last.paces[last.way].append((now - last.since) / last.nbytes)
        first, second = last.paces
        if len(second) < _LATEST:
            last.way = len(second) < len(first)
        else:
            last.way = (min(second) < min(first)) ^ (last.calls % _TRIED_EVERY == 0)
        last.calls, last.since, last.nbytes = last.calls + 1, now, nbytes
        return last.way
