"""Jobs in which one rank leaves before its time: `endings.py BODY DIRECTORY VERB`.

tests/test_leaving.py launches them, with a time limit, and looks at what they print and leave.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fsexchange import Store
from fsexchange.mpi import Exchange

from .common import base, comm, is_gone, left_behind, rank, run, size

right, left = (rank + 1) % size, (rank - 1) % size


def call(ex: Exchange, verb: str, obj: Any) -> Any:
    """Use a verb so that the others wait for the last rank."""
    calls: dict[str, Callable[[], Any]] = {
        "bcast": lambda: ex.bcast(obj, root=size - 1),
        "bcast in a room": lambda: ex.bcast(np.ones(3 << 20)),  # by the first rank
        "gather": lambda: ex.gather(obj),
        "allgather": lambda: ex.allgather(obj),
        "scatter": lambda: ex.scatter([obj] * size, root=size - 1),
        "alltoall": lambda: ex.alltoall([obj] * size),
        "barrier": ex.barrier,
        "send": lambda: ex.recv(source=left) if rank == 0 else ex.send(obj, right),
        "isend": lambda: ex.irecv(source=left).wait() if rank == 0 else ex.isend(obj, right),
        "sendrecv": lambda: ex.sendrecv(obj, right, source=left),
        "assemble": lambda: ex.assemble(obj),
        "put_blocks": lambda: ex.put_blocks(obj),
        "bcast_key": lambda: ex.bcast_key(obj, root=size - 1),
        "allgather_keys": lambda: ex.allgather_keys(obj),
    }
    return calls[verb]()


def before(verb: str) -> None:
    """The last rank never comes to the verb."""
    with Exchange(comm, base / "store", abort_timeout=0.3) as ex:
        ex.put(np.ones(1 << 20))
        if rank == size - 1:
            raise KeyError("the reason")
        call(ex, verb, np.arange(3))
        ex.barrier()


def after(verb: str) -> None:
    """The last rank leaves as the others go on."""
    with Exchange(comm, base / "store", abort_timeout=0.3) as ex:
        call(ex, verb, None if "key" in verb else np.ones(1 << 20))
        if rank == size - 1:
            raise KeyError("the reason")
        ex.barrier()


def inside(verb: str) -> None:
    """The last rank's own part fails: the others that wait hear of it, and all leave."""
    try:
        with Exchange(comm, base / "store", abort_timeout=60) as ex:
            call(ex, verb, threading.Lock() if rank == size - 1 else None)
    finally:
        assert is_gone(base / "store")
        print(f"rank {rank} goes on", flush=True)


def two_leave() -> None:
    """Two ranks leave, with 60 s and with 2 s of patience, and the others wait for them."""
    timeout = 60.0 if rank == 1 else 2.0
    with Exchange(comm, base / "store", abort_timeout=timeout) as ex:
        if rank == 1:
            time.sleep(0.05)
        if 0 < rank < 3:
            raise KeyError(f"reason of {rank}")
        ex.allgather(None)


def all_come_in_time() -> None:
    """One raises, one is late, others leave as they should: no abort, and nothing is left."""
    try:
        with Exchange(comm, base / "store", abort_timeout=60) as ex:
            assert left_behind(ex) == []
            if rank == size - 1:
                raise KeyError("the reason")
            time.sleep(0.5 * rank)
    except KeyError:
        assert rank == size - 1
    assert is_gone(base / "store")
    with Exchange(comm, base / "store") as ex:
        assert ex.allgather(rank) == list(range(size))


def killed() -> None:
    """By SIGKILL, with objects of everybody's in the store."""
    with Exchange(comm, base / "store", abort_timeout=0.3) as ex:
        ex.put(np.ones(1 << 20))
        ex.barrier()
        if rank == size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        ex.allgather(np.ones(1 << 20))


def workers_exit() -> None:
    """As in schwimmbad: workers end the program inside the pool, and the master works on."""
    with Exchange(comm, base / "store", abort_timeout=0.3) as ex:
        if rank > 0:
            while (task := ex.recv(source=0)) is not None:
                ex.send(task**2, 0)
            sys.exit(0 if rank % 2 else None)
        for worker in range(1, size):
            ex.send(worker, worker)
        assert [ex.recv(source=worker) for worker in range(1, size)] == [1, 4, 9][: size - 1]
        for worker in range(1, size):
            ex.send(None, worker)
        time.sleep(2 if size > 1 else 0)
        assert ex.get(ex.put("there still")) == "there still"
    print("the master ends")
    sys.exit()


def all_exit() -> None:
    with Exchange(comm, base / "store", abort_timeout=0.3) as ex:
        ex.barrier()
        sys.exit(0)


def one_exits_with_an_error() -> None:
    with Exchange(comm, base / "store", abort_timeout=0.3) as ex:
        if rank == size - 1:
            sys.exit("the reason")
        ex.barrier()


def without_with() -> None:
    """Each rank ends when it likes, the owner of the store first."""
    ex = Exchange(comm, base / "store", abort_timeout=0.3)
    inner = Exchange(comm, base / "inner", abort_timeout=0.3)
    ex.put(np.ones(1 << 20))
    inner.barrier()
    if rank > 0:
        time.sleep(0.4 * rank)
        assert ex.get(ex.put("there still")) == "there still"
    if rank == size - 1:
        if os.fork() == 0:  # which is no rank
            atexit._run_exitfuncs()
            os._exit(0)
        os.wait()
    print(f"rank {rank} ends", flush=True)
    sys.exit()


def without_with_by_an_exception(who: str, how: str) -> None:
    ex = Exchange(comm, base / "store", abort_timeout=0.3)
    ex.put(np.ones(1 << 20))
    if rank == int(who):
        raise KeyError("the reason") if how == "KeyError" else SystemExit("the reason")
    ex.barrier()


def several_stores() -> None:
    """All that a rank shares, and what it owns besides, when it ends the job from the innermost."""
    half = comm.Split(rank % 2, rank)
    Store(base / f"own-{rank}").put(b"x" * 100)
    with (
        Exchange(comm, base / "world", abort_timeout=60) as world,
        Exchange(half, base / f"half-{rank % 2}", abort_timeout=0.3) as ex,
    ):
        for each in world, ex:
            each.put(np.ones(1 << 20))
        world.barrier()
        if rank == 0:
            raise KeyError("the reason")
        ex.barrier()
        time.sleep(60)


def told_to_abort() -> None:
    """One rank ends the job while the others wait for it."""
    with Exchange(comm, base / "store") as ex:
        ex.put(np.ones(1 << 20))
        ex.barrier()
        if rank == size - 1:
            ex.Abort(7)
        ex.barrier()


def forked() -> None:
    """A child of a rank, which is no rank, leaves the `with`."""
    try:
        with Exchange(comm, base / "store") as ex:
            pid = os.fork() if rank == 0 else None
            if pid == 0:
                raise KeyError("of the child")
            assert pid is None or os.waitpid(pid, 0)[1] == 0
            assert ex.allgather(rank) == list(range(size))
            assert ex.get(ex.put("content")) == "content"
    except KeyError:
        os._exit(0)


def interrupted(verb: str) -> None:
    """Ctrl-C, which reaches every rank, while the last computes and the others wait for it."""
    with Exchange(comm, base / "store") as ex:
        ex.put(np.ones(1 << 20))
        pids = ex.allgather(os.getpid())
        if rank == size - 1:
            time.sleep(0.5)
            for pid in pids:
                os.kill(pid, signal.SIGINT)
            time.sleep(60)
        call(ex, verb, np.arange(3))
        ex.barrier()


def interrupted_while_leaving() -> None:
    """Ctrl-C for one rank that has left, and waits."""
    with Exchange(comm, base / "store") as ex:
        ex.put(np.ones(1 << 20))
        pids = ex.allgather(os.getpid())
        if rank == size - 1:
            time.sleep(0.5)
            os.kill(pids[0], signal.SIGINT)
            time.sleep(60)


if __name__ == "__main__":
    run(globals())
