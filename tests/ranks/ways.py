"""What a large object takes from one rank to another: `ways.py NAME DIRECTORY`.

tests/test_ways.py launches them, on one host and as if on several, and judges what they do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fsexchange.mpi import Exchange, ways

from .common import base, comm, left_behind, no_memory, rank, run, same, size

right, left = (rank + 1) % size, (rank - 1) % size

# More than a slab holds.
LARGE = 64 << 20

# Bytes up to which bodies go to other hosts by MPI.
LIMIT = 8 << 20


def calls() -> None:
    """Send a large array to a rank that is not there yet, between marks that strace sees."""
    with Exchange(comm, base / "store") as ex:
        array = np.full(LARGE, rank, "u1")
        comm.Barrier()
        os.access("/begin", 0)
        request = ex.isend(array, right)
        comm.Barrier()
        got = ex.recv(source=left)
        request.wait()
        comm.Barrier()
        os.access("/end", 0)
        assert same(got, np.full(LARGE, left, "u1"))


def objects(n: int, nbytes: int) -> list[Any]:
    array = np.full(nbytes, n, "u1")
    return [array, [bytes([n]) * 70_000, array, "x" * 5_000], array[: 9 << 20]]


def sent_around(ex: Exchange, nbytes: int) -> list[str]:
    """Send objects to a rank that is not there yet, and return the files they take."""
    requests = [ex.isend(obj, right) for obj in objects(rank, nbytes)]
    files = left_behind(ex)
    for wanted in objects(left, nbytes):
        assert same(ex.recv(source=left), wanted)
    for request in requests:
        request.wait()
    assert left_behind(ex) == []
    return files


def each_in_its_turn() -> None:
    """Memory, where there is some; else a file; else MPI. Launched with a small tmpfs, too."""
    by_memory = size > 1 and "FSEXCHANGE_TEST_RANKS_OF_A_HOST" not in os.environ
    shared = Exchange(comm, base / "store", inline_limit=LIMIT)
    small = Exchange(comm, base / "small" / "store", inline_limit=LIMIT)
    none = Exchange(comm, base / "small" / "other", inline_limit=0)
    with shared as ex:
        assert len(sent_around(ex, LARGE)) == (0 if by_memory else 3 * size)
        with no_memory():
            assert len(sent_around(ex, LARGE)) == 3 * size
            files = sent_around(ex, 1 << 20)
            assert by_memory or files == []  # to another host by MPI
    with small as ex, none:
        assert len(sent_around(ex, LARGE)) <= (0 if by_memory else 4)  # of 40 MB
        with no_memory():
            assert sent_around(ex, LARGE) == []
            assert sent_around(none, LARGE) == []
            most, module = ways._MOST, _any(ways)
            module._MOST = 1_000_003  # as with more than 1 GiB
            assert sent_around(ex, LARGE) == []
            module._MOST = most


def _any(module: Any) -> Any:
    return module


def many_wait() -> None:
    """Most by memory, until too many descriptors are open; then by MPI or files."""
    for limit in (1 << 20, 0):
        with Exchange(comm, base / "store", inline_limit=limit) as ex:
            comm.Barrier()
            before = len(os.listdir("/proc/self/fd"))
            for n in range(400):
                ex.isend(np.full(200_000, n % 256, "u1"), right)
            files = left_behind(ex)
            assert len(os.listdir("/proc/self/fd")) <= before + 132
            by_memory = size > 1 and "FSEXCHANGE_TEST_RANKS_OF_A_HOST" not in os.environ
            assert bool(files) == (by_memory or limit == 0)
            for n in range(400):
                assert same(ex.recv(source=left), np.full(200_000, n % 256, "u1"))
            assert left_behind(ex) == []
            ex.send(np.ones(200_000), right)  # which looks what receivers have
            ex.recv()
            assert len(os.listdir("/proc/self/fd")) <= before + 4


def never_received() -> None:
    with Exchange(comm, base / "store", clear=False) as ex:
        for _ in range(3):
            ex.isend(np.ones(LARGE // 8), right)
            with no_memory():
                ex.isend(np.ones(LARGE // 8), right)
    assert not list(Path(base / "store").glob("*/[0-9]*"))
    assert [each for each in map(_length, os.listdir("/proc/self/fd")) if each >= LARGE] == []


def _length(fd: str) -> int:
    """Return the bytes of memory behind a descriptor."""
    try:
        return os.stat(f"/proc/self/fd/{fd}").st_size
    except FileNotFoundError:  # the one of the listing
        return 0


def short_of_memory() -> None:
    """Launched in a control group of 600 MB: what does not fit goes through the disk."""
    with Exchange(comm, base / "store") as ex:
        if rank == 0:
            array = np.full(350 << 20, 7, "u1")
            ex.isend(array, size - 1)
            del array
        files = left_behind(ex)
        assert len(files) == 1
        if rank == size - 1:
            assert (ex.recv(source=0)[:: 1 << 12] == 7).all()
        assert left_behind(ex) == []


if __name__ == "__main__":
    run(globals())
