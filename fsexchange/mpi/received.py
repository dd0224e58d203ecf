"""Memory for what a rank receives: kept, and used again once the program has dropped it.

Fresh memory costs more than to copy into it: the kernel gives and clears each page when it is first
touched, 3 MiB in 0.6 to 1.0 ms, and malloc often gives pages back as soon as they are free. This
module needs no MPI.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from fsexchange.serialize.format import ALIGNMENT

#: From this many bytes on memory is kept. malloc may map it, and then it starts 16 bytes after a
#: page; shared memory starts at one. From there some processors copy to such memory seven times
#: slower, as they take the next load for one of what they are about to store (4 KiB aliasing). So
#: ours is aligned.
KEPT_FROM = 1 << 17

# Bytes and pieces that are kept at most; and how many times as long as what is asked for a piece
# may be, as an array pins all of it.
_KEPT, _MOST_KEPT, _SPARE = 32 << 20, 16, 9 / 8

# Each piece, where in it what was returned starts, and whether somebody has any of that. The first
# is the one that was asked for least recently.
_kept: dict[int, tuple[npt.NDArray[np.uint8], int, weakref.ref[Any]]] = {}
_numbers = itertools.count()


def empty(nbytes: int) -> memoryview:
    """Return writable memory, which unlike a bytearray is not filled with zeros."""
    if nbytes < KEPT_FROM:
        return np.empty(nbytes, np.uint8).data
    found = _unused(nbytes)
    memory, start = found or _fresh(nbytes)
    # By a memoryview, so that each array that shows any of it keeps this one, not `memory`.
    returned = np.frombuffer(memory.data, np.uint8, nbytes, start)
    if nbytes <= _KEPT:
        _kept[next(_numbers)] = memory, start, weakref.ref(returned)
        if found is None:
            _bound()
    return returned.data


def _bound() -> None:
    """Keep no more than there should be."""
    while len(_kept) > _MOST_KEPT or (
        sum([each.nbytes for each, _, _ in tuple(_kept.values())]) > _KEPT + ALIGNMENT
    ):
        for number in tuple(_kept)[:1]:
            _kept.pop(number, None)


def _unused(nbytes: int) -> tuple[npt.NDArray[np.uint8], int] | None:
    # The latest first: the caches may have it yet.
    for number, (memory, start, returned) in reversed(tuple(_kept.items())):
        if (
            returned() is None
            and nbytes <= memory.nbytes - ALIGNMENT <= nbytes * _SPARE
            and _kept.pop(number, None) is not None  # else another thread has it
        ):
            return memory, start
    return None


def _fresh(nbytes: int) -> tuple[npt.NDArray[np.uint8], int]:
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    return memory, -memory.ctypes.data % ALIGNMENT


def forget() -> None:
    """Keep nothing any more; what the program has stays."""
    _kept.clear()
