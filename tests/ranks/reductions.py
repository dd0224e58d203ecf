"""Reductions of an Exchange, against mpi4py's own: `reductions.py NAME DIRECTORY`."""

from __future__ import annotations

import errno
import operator
import signal
import threading
import time
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI

from fsexchange import MismatchError, RemoteError, SerializationError
from fsexchange.mpi import Exchange, reductions, room
from fsexchange.mpi.limits import EAGER

from .common import base, comm, left_behind, no_memory, raises, rank, run, same, size

last = size - 1


def joined(one: Any, other: Any) -> Any:
    """Say in which order and by which pairs."""
    return f"({one}{other})"


def updated(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    """Change the first."""
    one.update(other)
    return one


def programs() -> list[tuple[Any, Any]]:
    """Return objects of this rank and operations on them."""
    rng = np.random.default_rng(rank)
    floats = rng.random(100)
    integers = rng.integers(-100, 100, 5000)
    return [
        *((rank + 1, op) for op in (MPI.SUM, MPI.PROD, MPI.MAX, MPI.MIN, MPI.BOR, MPI.LAND)),
        *((rank % 2, op) for op in (MPI.LXOR, MPI.LOR, MPI.BAND, MPI.BXOR)),
        *(((rank % 2, rank), op) for op in (MPI.MAXLOC, MPI.MINLOC)),
        (rank, MPI.REPLACE),
        (rank, MPI.NO_OP),
        ([rank], MPI.SUM),
        (str(rank), joined),
        (("x", rank), operator.add),
        ({rank: rank}, updated),
        (np.float32(0.1) * (rank + 1), MPI.SUM),
        (floats[0], MPI.SUM),
        (floats, MPI.SUM),  # small: to the last bit
        (floats, np.maximum),
        (np.array(1.5), MPI.SUM),
        (integers, MPI.SUM),
        (integers, MPI.PROD),
        (integers.astype("i1"), MPI.SUM),
        (integers.astype("u2"), MPI.BXOR),
        (integers > 0, MPI.SUM),
        (integers > 0, MPI.BAND),
        (integers.astype(">i4"), MPI.SUM),
        (integers.reshape(50, 100)[:, ::2], MPI.SUM),
        (np.asfortranarray(integers.reshape(50, 100)), MPI.SUM),
        (integers.astype("f8"), MPI.SUM),  # all of them whole numbers
        (integers.astype("c8"), MPI.SUM),
        (integers.astype("f2"), MPI.SUM),
        (integers, np.minimum),
        (integers if rank else integers[:1], MPI.SUM),  # broadcast by numpy
        (integers if rank % 2 else 7, MPI.SUM),
        (integers.astype("f4" if rank % 2 else "f8"), MPI.SUM),
        ([np.ones(200_000), "text"], lambda one, other: [one[0] + other[0], one[1]]),
        (np.full(2 << 20, rank), MPI.SUM),
    ]


def same_as_mpi4py() -> None:
    with Exchange(comm, base / "store") as ex:
        assert ex.reduce(1) == comm.reduce(1)
        for n, (obj, op) in enumerate(programs()):
            for root in {0, last}:
                theirs, ours = (way.reduce(obj, op, root=root) for way in (comm, ex))
                assert same(ours, theirs), (n, ours, theirs)
            # mpi4py's scan gives rank 0 what `updated` makes of its object for others.
            for verb in ("allreduce", "scan", "exscan")[: 1 if op is updated else 3]:
                theirs, ours = (getattr(way, verb)(obj, op=op) for way in (comm, ex))
                assert same(ours, theirs), (n, verb, ours, theirs)
        assert left_behind(ex) == []
        # Floats whose sum depends on the order: MPI's own.
        large = np.random.default_rng(rank).random(10_000)
        assert np.allclose(ex.allreduce(large), comm.allreduce(large), rtol=1e-12, atol=0)


def results_are_private() -> None:
    with Exchange(comm, base / "store") as ex:
        for n in (10, 10_000, 1 << 20):
            mine = np.ones(n)
            for verb in ("allreduce", "reduce", "scan", "exscan"):
                result = getattr(ex, verb)(mine)
                if result is not None:
                    result[:] = 7
            assert (mine == 1).all()
            mine.flags.writeable = False
            assert (ex.allreduce(mine) == size).all()


def large_arrays() -> None:
    """In memory that hosts share; where one has none MPI reduces them as it does small ones."""
    share, rng = 1 << 20, np.random.default_rng(rank)
    with Exchange(comm, base / "store", inline_limit=1 << 14) as ex:
        for nbytes in (1 << 15, share * size - 16, share * size, share * size + 16, 5 * share + 48):
            for dtype, shape in (("i4", (-1, 2)), ("f8", (2, -1)), ("c16", (-1,))):
                whole = rng.integers(0, 9, nbytes // np.dtype(dtype).itemsize).astype(dtype)
                obj = whole.reshape(shape)
                wanted = np.empty_like(obj)
                comm.Allreduce(obj, wanted)
                got = ex.allreduce(obj)
                got_again = ex.allreduce(obj)
                assert same(got, wanted), (nbytes, dtype)
                got[...] = rank
                assert same(got_again, wanted)
                with no_memory():
                    assert same(ex.allreduce(obj), wanted)
                full: Any = room.HostRoom
                fill = full.fill
                if rank == last:
                    full.fill = full_after_the_first
                assert same(ex.allreduce(obj), wanted)
                full.fill = fill
        assert left_behind(ex) == []


def interrupted() -> None:
    """A handler raises on a rank between the pieces that all reduce; all stay in step."""
    armed = [False]
    between = [reductions._pieces.__code__, room.HostRoom.fill.__code__]

    def stop(_: int, frame: Any) -> None:
        if armed[0] and frame.f_code in between:
            armed[0] = False
            raise TimeoutError

    large = np.full(3 << 20, rank, "f8")
    expected = sum(range(size))
    with Exchange(comm, base / "store") as ex:
        if rank == size - 1:
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        stopped = 0
        for _ in range(200 if size > 1 else 0):
            armed[0] = rank == size - 1
            try:
                got = ex.allreduce(large, MPI.SUM)
            except (TimeoutError, RemoteError) as error:
                assert isinstance(error, TimeoutError) == (rank == size - 1)
                assert rank == size - 1 or "interrupted" in str(error)
                stopped += 1
            else:
                assert (got == expected).all()
            armed[0] = False
            assert ex.allgather(rank) == list(range(size))
            if stopped == 3:
                break
        assert stopped == 3 or size == 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert left_behind(ex) == []


def full_after_the_first(self: room.HostRoom, parts: room.Content, *, alone: bool = False) -> None:
    next(iter(parts), None)
    raise OSError(errno.ENOMEM, "a test has no memory")


def one_rank_fails() -> None:
    """In its part, or in the operation; and life goes on."""
    with Exchange(comm, base / "store") as ex:
        for bad in range(size):
            for other in (rank, np.ones(10_000)):
                obj = threading.Lock() if rank == bad else other
                for verb, waiting in (
                    ("reduce", {0}),
                    ("allreduce", {*range(size)}),
                    ("scan", {*range(bad, size)}),
                ):
                    call = partial(getattr(ex, verb), obj)
                    if rank == bad:
                        raises(SerializationError, call)
                    elif rank in waiting:
                        assert raises(RemoteError, call).rank == bad
                    else:
                        call()
                assert ex.allgather(rank) == list(range(size))
        if size > 1:
            for verb in ("allreduce", "reduce", "scan"):
                call = partial(getattr(ex, verb), rank, op=lambda one, other: 1 // 0)
                if (rank == 0) == (verb != "scan") or verb == "allreduce":
                    raises(ZeroDivisionError, call)
                else:
                    call()
                assert ex.allgather(rank) == list(range(size))
        assert left_behind(ex) == []


def out_of_step(which: str) -> None:
    """Some call something else: whoever sees it says so, and none gets wrong data."""
    odd = rank == last
    with Exchange(comm, base / "store", abort_timeout=0.3) as ex:
        ex.allgather(None)
        if which == "one bcast too many":
            for _ in range(2 if rank == 0 else 1):
                ex.bcast("x")
            ex.gather("x")
        elif which == "one bcast too many at the end":
            for _ in range(2 if rank == 0 else 1):
                ex.bcast("x")
        elif which == "other roots":
            assert ex.bcast(rank, root=int(rank == 1)) == int(rank == 1)
        elif which == "alltoall":
            ex.alltoall([0] * size) if odd else ex.allgather(0)
        elif which == "another verb":
            (ex.reduce if odd else ex.gather)(rank)
        elif which == "scan":
            ex.allgather("x") if odd else ex.scan("x")
        elif which == "exscan":
            ex.exscan(1) if odd else ex.scan(1)
        else:
            ex.allgather(np.ones(3)) if odd else getattr(ex, which)(np.ones(3))
        if which not in ("one bcast too many at the end", "other roots"):
            time.sleep(1)  # the job ends before


def goes_on_after_a_mismatch() -> None:
    """Whoever goes on gets right data or an error, never parts of two objects."""
    with Exchange(comm, base / "store") as ex:
        for nbytes in (100, EAGER + 500, EAGER + 3_000):  # MPI takes the rests at once
            if rank == 0:
                for n in (1, 2, 3):
                    ex.bcast(np.full(nbytes, n, "u1"))
            else:
                raises(MismatchError, lambda: ex.scatter(None))
                for n in (2, 3):
                    assert (ex.bcast(None) == n).all()
            ex.allgather(None)


if __name__ == "__main__":
    run(globals())
