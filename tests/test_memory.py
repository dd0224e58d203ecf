"""Watched memory: what the kernel calls unwritten is unwritten, whoever might have written."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import resource
import threading
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fsexchange.filesystem.memory import WatchedMemory, _path_of, whole_pages

from .processes import fork, lacking

N = 1 << 20  # elements of 8 bytes
Array = npt.NDArray[Any]


@pytest.fixture
def memory() -> Iterator[WatchedMemory]:
    try:
        made = WatchedMemory()
    except OSError:
        lacking("userfaultfd with asynchronous write protection (Linux 6.7)")
    yield made
    made.close()


def place(array: Array) -> tuple[int, int]:
    return array.ctypes.data, array.nbytes


def watched(memory: WatchedMemory, array: Array) -> Array:
    memory.watch(*place(array))
    array.sum()  # now all of it is in memory
    assert memory.is_unwritten(*place(array))
    return array


def test_each_write_is_noticed(memory: WatchedMemory) -> None:
    array = watched(memory, np.ones(N))
    start, nbytes = whole_pages(*place(array))
    first = (start - array.ctypes.data) // 8
    last = first + nbytes // 8 - 1
    for at in (first, last, N // 2, *random.Random(1).sample(range(first, last), 20)):
        array[at] = 1  # the value that it has
        assert not memory.is_unwritten(*place(array))
        watched(memory, array)
    reader, writer = os.pipe()
    os.write(writer, b"12345678")
    os.readv(reader, [array.data.cast("B")[1 << 20 : (1 << 20) + 8]])
    os.close(reader)
    os.close(writer)
    assert not memory.is_unwritten(*place(array))


def test_a_write_is_noticed_in_a_hugepage_too(memory: WatchedMemory) -> None:
    with mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapping:
        mapping.madvise(mmap.MADV_HUGEPAGE)
        array = np.frombuffer(mapping, np.uint8)
        array[:] = 1
        for at in range(0, 16 << 20, 1_234_567):
            watched(memory, array)
            array[at] = 1
            assert not memory.is_unwritten(*place(array))
        del array


def test_memory_that_is_another_is_not_called_unwritten(memory: WatchedMemory) -> None:
    """After it was freed the next array may be at its place, with pages that nobody has written."""
    array = watched(memory, np.ones(8 * N))
    before = place(array)
    del array
    assert not memory.is_unwritten(*before)
    zeros = np.zeros(8 * N)
    assert not memory.is_unwritten(*place(zeros))
    zeros.sum()
    assert not memory.is_unwritten(*place(zeros))
    assert not memory.is_unwritten(*before)


def test_nothing_is_proven_of_memory_that_others_may_write(
    memory: WatchedMemory, tmp_path: Path
) -> None:
    shared = SharedMemory(create=True, size=8 * N)
    path = tmp_path / "file"
    path.write_bytes(bytes(8 * N))
    for name in (path, Path("/dev/shm") / shared.name.lstrip("/")):
        for mode in ("r+", "c"):
            array: Array = np.memmap(name, np.uint8, mode)
            try:
                memory.watch(*place(array))
            except OSError:
                pass
            array.sum()
            assert not memory.is_unwritten(*place(array))
            del array
    shared.close()
    shared.unlink()


def test_children_have_memory_of_their_own(memory: WatchedMemory) -> None:
    array = watched(memory, np.ones(N))

    def child() -> None:
        opened = [os.path.basename(path) for path in map(_path_of, os.listdir("/proc/self/fd"))]
        assert not {"pagemap", "anon_inode:[userfaultfd]"} & set(opened)
        assert not memory.is_unwritten(*place(array))
        with pytest.raises(OSError, match="not permitted"):
            memory.watch(*place(array))
        memory.forget(*place(array))
        array[:] = 2

    assert os.waitpid(fork(child), 0)[1] == 0
    assert memory.is_unwritten(*place(array))
    assert array[0] == 1


def test_nothing_is_proven_beside_devices(memory: WatchedMemory) -> None:
    array = watched(memory, np.ones(N))
    for name in ("/dev/fuse", "/dev/kmsg", "/dev/loop-control", "/dev/mem"):
        try:
            fd = os.open(name, os.O_RDONLY)
        except OSError:
            continue
        assert not memory.is_unwritten(*place(array))
        os.close(fd)
        break
    else:
        lacking("a device to open")
    assert memory.is_unwritten(*place(array))


def test_nothing_is_proven_beside_files_past_the_page_cache(
    memory: WatchedMemory, tmp_path: Path
) -> None:
    """A read that is under way when the watch begins goes on to write, and no page tells."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * (32 << 20))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    target = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = np.frombuffer(target, np.uint8)
    array = whole[24 << 20 :]
    for _ in range(5):
        whole[:] = 0
        reader = threading.Thread(target=os.preadv, args=(fd, [target], 0))
        reader.start()
        while reader.is_alive():
            with contextlib.suppress(OSError):
                memory.watch(*place(array))
            before = array.copy()
        reader.join()
        assert not memory.is_unwritten(*place(array)) or np.array_equal(array, before)
    os.close(fd)
    watched(memory, array)
    del array, whole


def test_without_a_descriptor_to_look_with_nothing_is_proven(memory: WatchedMemory) -> None:
    array = watched(memory, np.ones(N))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        unwritten = memory.is_unwritten(*place(array))
        with pytest.raises(OSError, match="Too many open files"):
            memory.watch(*place(array))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not unwritten
    assert not memory.is_unwritten(*place(array))
    watched(memory, array)


def test_what_is_forgotten_is_not_watched(memory: WatchedMemory) -> None:
    array = watched(memory, np.ones(N))
    memory.forget(*place(array))
    assert not memory.is_unwritten(*place(array))
    array[:] = 2


def test_descriptors_that_were_closed_are_not_closed_again() -> None:
    try:
        memory = WatchedMemory()
    except OSError:
        lacking("userfaultfd with asynchronous write protection (Linux 6.7)")
    array = watched(memory, np.ones(N))
    os.close(memory._pages)
    os.close(memory._faults)
    mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
    assert not memory.is_unwritten(*place(array))
    memory.close()
    for fd in mine:
        os.close(fd)
