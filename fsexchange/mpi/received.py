"""Memory for what a rank receives: kept, and used again once the program has dropped it.

Fresh memory costs more than to copy into it: the kernel gives and clears each page when it is first
touched, 3 MiB in 0.6 to 1.0 ms, and malloc often gives pages back as soon as they are free. What is
kept of large pieces the kernel may have back whenever it needs memory: madvise(2), MADV_FREE. That
costs a hundredth of what fresh pages cost where they are huge, and a fifth where they are not
(EPYC, 64 MiB). This module needs no MPI.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import weakref
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fsexchange.filesystem.memory import whole_pages
from fsexchange.filesystem.release import Releases
from fsexchange.serialize.format import ALIGNMENT

#: From this many bytes on memory is kept. malloc may map it, and then it starts 16 bytes after a
#: page; shared memory starts at one. From there some processors copy to such memory seven times
#: slower, as they take the next load for one of what they are about to store (4 KiB aliasing). So
#: ours is aligned.
KEPT_FROM = 1 << 17

# From this many bytes on memory is mapped, so that it consists of huge pages, and is offered to the
# kernel while it is kept. malloc starts large memory anywhere: of 4 MiB one page is huge at best,
# and to offer the others and write to them again took a quarter of the time of a `send` (EPYC).
_MAPPED_FROM = 1 << 22

# Bytes that are kept at most, of small pieces and of those that are offered; a loop has the last
# array that it received yet while it receives the next, and what is added to it is added. How many
# pieces of either; and how many times as long as what is asked for a piece may be, as an array pins
# all of it.
_KEPT, _MOST_KEPT, _SPARE = (32 << 20, (512 << 20) + (64 << 10)), 64, 9 / 8

# Each piece by its number. The first is the one that was asked for least recently.
_Kept: TypeAlias = dict[int, npt.NDArray[np.uint8]]
_kept: tuple[_Kept, _Kept] = {}, {}
_numbers = itertools.count()

# The pieces of which somebody has something.
_shown: dict[int, weakref.ref[Any]] = {}

_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.py_object]
_offers = Releases()

# asm-generic/mman-common.h; Python has them where its headers had
_MADV_FREE, _MADV_HUGEPAGE = 8, 14
_HUGE_PAGE = 1 << 21  # bytes, on x86-64 and where pages have 4 KiB


def empty(nbytes: int) -> memoryview:
    """Return writable memory, which unlike a bytearray is not filled with zeros."""
    if nbytes < KEPT_FROM:
        return np.empty(nbytes, np.uint8).data
    offered = nbytes >= _MAPPED_FROM
    kept, most = _kept[offered], _KEPT[offered]
    found = _unused(kept, nbytes)
    memory = _fresh(nbytes) if found is None else found
    # By a memoryview, so that each array that shows any of it keeps this one, not `memory`.
    returned = np.frombuffer(memory.data, np.uint8, nbytes)
    if nbytes <= most:
        number = next(_numbers)
        # The callback of the first reference is the last to be called. Else other code, which may
        # run before it, by the garbage collector too, would get memory that is yet to be offered.
        _shown[number] = weakref.ref(returned, partial(_shown.pop, number))
        if offered:
            _offers.add(returned, _madvise, *whole_pages(returned.ctypes.data, nbytes), _MADV_FREE)
        kept[number] = memory
        if found is None:
            _bound(kept, most)
    return returned.data


def _bound(kept: _Kept, most: int) -> None:
    """Keep no more than there should be."""
    while len(kept) > _MOST_KEPT or sum([each.nbytes for each in tuple(kept.values())]) > most:
        for number in tuple(kept)[:1]:
            kept.pop(number, None)


def _unused(kept: _Kept, nbytes: int) -> npt.NDArray[np.uint8] | None:
    # The latest first: the caches may have it yet.
    for number, memory in reversed(tuple(kept.items())):
        if (
            number not in _shown
            and nbytes <= memory.nbytes <= nbytes * _SPARE
            and kept.pop(number, None) is not None  # else another thread has it
        ):
            return memory
    return None


def _fresh(nbytes: int) -> npt.NDArray[np.uint8]:
    if nbytes >= _MAPPED_FROM:
        with suppress(OSError):  # there is no address space for a huge page more
            mapped = mmap.mmap(-1, nbytes + _HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            start = -np.frombuffer(mapped, np.uint8).ctypes.data % _HUGE_PAGE
            mapped.resize(start + nbytes)  # where it is, as it gets shorter
            with suppress(OSError):  # a kernel without huge pages
                mapped.madvise(_MADV_HUGEPAGE, start)
            return np.frombuffer(mapped, np.uint8)[start:]
    memory = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes]


def forget() -> None:
    """Keep nothing any more; what the program has stays."""
    for kept in _kept:
        kept.clear()
