"""Memory that is received into: used again once nothing of it is left, and not before."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fsexchange.filesystem.memory import whole_pages
from fsexchange.mpi.received import _KEPT, _MOST_KEPT, KEPT_FROM, _kept, empty, forget
from fsexchange.serialize.format import ALIGNMENT

from .processes import fork

MEGA = 1 << 20

# Reclaim pages now, as the kernel does when memory is short: asm-generic/mman-common.h.
_MADV_PAGEOUT = 21


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    forget()
    yield
    forget()


def address(memory: Any) -> int:
    return np.frombuffer(memory, np.uint8).ctypes.data


def test_what_was_dropped_is_used_again() -> None:
    first = empty(3 * MEGA)
    where = address(first)
    assert where % ALIGNMENT == 0
    first[:] = b"x" * 3 * MEGA
    second = empty(3 * MEGA)
    assert address(second) != where
    del first
    third = empty(3 * MEGA - 1000)
    assert (address(third), len(third)) == (where, 3 * MEGA - 1000)
    assert address(empty(3 * MEGA)) not in (where, address(second))


# What a program may have of an array that it received.
LEFT: dict[str, Callable[[memoryview], object]] = {
    "memory": lambda memory: memory,
    "part": lambda memory: memory[MEGA // 2 :],
    "cast": lambda memory: memory.cast("d"),
    "array": lambda memory: np.frombuffer(memory),
    "row": lambda memory: np.frombuffer(memory).reshape(8, -1)[3],
    "element": lambda memory: np.frombuffer(memory)[5:6].view(np.uint8)[1:2],
    "ndarray": lambda memory: np.ndarray((8, 16), buffer=memory)[::2].T,
    "what it shows": lambda memory: memory.obj,
    "part of that": lambda memory: np.asarray(memory.obj)[7:9],
    "masked": lambda memory: np.ma.MaskedArray(np.frombuffer(memory))[:3],
    "subclass": lambda memory: np.frombuffer(memory).view(np.recarray)[1:],
    "without": lambda memory: np.frombuffer(memory)[9:].data[1:],
}


@pytest.mark.parametrize("left", LEFT)
def test_what_something_is_left_of_is_not_used_again(left: str) -> None:
    memory = empty(MEGA)
    memory[:] = b"x" * MEGA
    where = address(memory)
    had = LEFT[left](memory)
    del memory
    other = empty(MEGA)
    other[:] = b"y" * MEGA
    assert address(other) != where
    seen = had.tobytes() if isinstance(had, (np.ndarray, memoryview)) else b""
    assert set(seen) == set(b"x")
    del had
    assert address(empty(MEGA)) == where


def test_an_array_does_not_pin_much_more_than_its_own() -> None:
    where = address(empty(2 * MEGA))
    assert address(empty(MEGA)) != where
    assert address(empty(2 * MEGA)) == where


def test_what_is_kept_has_an_end() -> None:
    for kept, most, each in zip(_kept, _KEPT, (MEGA // 8, 4 * MEGA), strict=True):
        for n in range(1, 40):
            empty(n * each)
            assert sum(memory.nbytes for memory in kept.values()) <= most
        forget()
        had = [empty(each) for _ in range(100)]
        assert len(kept) == _MOST_KEPT
        assert len({address(each) for each in had}) == 100
        del had
        forget()
        assert not kept
    empty(_KEPT[True] + 1)
    assert not any(_kept)


def test_a_loop_that_has_the_last_array_yet_gets_no_fresh_memory() -> None:
    where = []
    for _ in range(4):
        had = empty((256 << 20) + 1000)  # the array, and what is before it
        where.append(address(had))
    assert where == where[:2] * 2
    assert len(_kept[True]) == 2


def test_nobody_gets_memory_that_is_yet_to_be_offered() -> None:
    """The garbage collector runs, before 3.12, while an object is freed, and calls others."""
    nbytes = 8 * MEGA
    got: list[memoryview] = []

    class Greedy:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            got.append(empty(nbytes))
            got[-1][:] = b"z" * nbytes

    thresholds = gc.get_threshold()
    for _ in range(20):
        memory = empty(nbytes)
        memory[:] = b"x" * nbytes
        where = address(memory)
        gc.disable()
        Greedy()
        held = [(n,) * 4 for n in range(3000)]  # no tuple is left to be used again
        gc.set_threshold(1, 1000, 1000)
        gc.enable()
        del memory
        gc.set_threshold(*thresholds)
        del held
        gc.collect()
        pages = [ctypes.c_size_t(each) for each in whole_pages(address(got[-1]), nbytes)]
        assert ctypes.CDLL(None).madvise(*pages, _MADV_PAGEOUT) == 0
        assert set(got[-1][::4096]) == set(b"z"), where
        got.clear()


def lazily_free() -> int:
    """Return how many bytes of this process the kernel may have back without a write."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("LazyFree"))


def resident() -> int:
    """Return how many bytes this process has in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def test_the_kernel_may_have_back_what_is_kept_of_large_pieces() -> None:
    memory = empty(64 * MEGA)
    memory[:] = b"x" * len(memory)
    where, before = address(memory), lazily_free()
    part = np.frombuffer(memory)[3:5]
    del memory
    assert lazily_free() < before + MEGA
    del part
    assert lazily_free() > before + 63 * MEGA
    had = resident()
    pages = [ctypes.c_size_t(each) for each in whole_pages(where, 64 * MEGA)]
    assert ctypes.CDLL(None).madvise(*pages, _MADV_PAGEOUT) == 0
    assert resident() < had - 60 * MEGA
    again = empty(64 * MEGA)
    assert address(again) == where
    again[:] = b"y" * len(again)
    assert bytes(again[:: 4 * MEGA]) == b"y" * 16
    assert lazily_free() < before + MEGA


def test_threads_do_not_get_the_same() -> None:
    wrong: list[int] = []

    def use(n: int) -> None:
        for _ in range(2000):
            memory = np.frombuffer(empty(KEPT_FROM), np.int64)
            memory[::512] = n
            if not (memory[::512] == n).all():
                wrong.append(n)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_child_has_memory_of_its_own() -> None:
    memory = empty(MEGA)
    memory[:] = b"x" * MEGA
    del memory

    def child() -> None:
        own = empty(MEGA)
        own[:] = b"c" * MEGA
        os.write(tells, b".")
        os.read(waits, 1)
        assert bytes(own) == b"c" * MEGA

    (waits, go_on), (done, tells) = os.pipe(), os.pipe()
    pid = fork(child)
    memory = empty(MEGA)
    memory[:] = b"p" * MEGA
    os.read(done, 1)
    assert bytes(memory) == b"p" * MEGA
    os.write(go_on, b".")
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (waits, go_on, done, tells):
        os.close(fd)
