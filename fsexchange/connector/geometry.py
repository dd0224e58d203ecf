"""Geometry of segments: where flags and objects lie in a file. It follows from the file's name.

A segment of n units of 64 bytes is a file `<number>.<n>`:

    offset      size
    0           1       for each chunk of 1,024 units: 1 if all of its units are free
    ...         1       for each unit: 1 if its object is evicted
    start       64      for each unit, from the next multiple of 4,096 on: the objects. Each starts
                        at the start of a unit and takes at least one
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

#: Where objects start, or how long they are, in bytes.
Ints: TypeAlias = "npt.NDArray[np.int64]"

#: Objects of fewer bytes may lie in a segment.
SEGMENT_BELOW = 1 << 16

#: Bytes of a unit.
UNIT = 64

#: Units of a chunk. Space is given back a chunk at a time.
CHUNK = 1024

_PAGE = 4096


class Geometry:
    """Where everything lies in a segment of `units` units.

    >>> Geometry(2000).start, Geometry(2000).end
    (4096, 132096)
    >>> Geometry(4092).start, Geometry(4093).start  # 4,092 flags and 4 of chunks fill a page
    (4096, 8192)
    """

    __slots__ = ("chunks", "end", "start", "units")

    def __init__(self, units: int) -> None:
        self.units = units
        self.chunks = -(-units // CHUNK)
        self.start = -(-(self.chunks + units) // _PAGE) * _PAGE
        self.end = self.start + UNIT * units

    def holds(self, offset: int, nbytes: int) -> bool:
        """Return whether an object of `nbytes` bytes can lie at `offset`."""
        return (
            self.start <= offset < self.end
            and offset <= self.end - nbytes
            and offset % UNIT == 0
            and 0 <= nbytes < SEGMENT_BELOW
        )

    def holds_all(self, offsets: Ints, sizes: Ints) -> bool:
        """Return whether objects of `sizes` bytes can lie at `offsets`."""
        inside = (self.start <= offsets) & (offsets < self.end) & (offsets <= self.end - sizes)
        sound = inside & (offsets % UNIT == 0) & (sizes >= 0) & (sizes < SEGMENT_BELOW)
        return bool(sound.all())

    def unit(self, offset: int) -> int:
        """Return the number of the unit that starts at `offset`."""
        return (offset - self.start) // UNIT

    def flag(self, unit: int) -> int:
        """Return the offset of a unit's flag."""
        return self.chunks + unit

    def units_of_chunk(self, chunk: int) -> int:
        """Return how many units a chunk has: the last may have fewer than the others."""
        return min(CHUNK, self.units - chunk * CHUNK)

    def space_of_chunk(self, chunk: int) -> tuple[int, int]:
        """Return the offset of a chunk's units, and the length of a full chunk."""
        return self.start + chunk * CHUNK * UNIT, CHUNK * UNIT


@lru_cache(256)
def geometry_of(path: str) -> Geometry:
    """Return the geometry of the segment at a path."""
    return Geometry(int(path.rpartition(".")[2]))


def units_for(nbytes: int) -> int:
    """Return how many units an object takes: at least one, for its flag."""
    return -(-nbytes // UNIT) or 1


def all_units_for(sizes: Ints) -> Ints:
    """Return how many units each of several objects takes."""
    return np.maximum(1, -(-sizes // UNIT))


def padding(nbytes: int) -> bytes:
    """Return the zeros between an object and the next unit.

    >>> len(padding(0)), len(padding(60)), len(padding(64))
    (64, 4, 0)
    """
    return bytes(UNIT * units_for(nbytes) - nbytes)
