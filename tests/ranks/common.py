"""What the bodies of MPI tests share: where they are, and how they compare."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from fsexchange.filesystem.kinds import find_filesystem
from fsexchange.mpi import Exchange, room, slab

comm = MPI.COMM_WORLD
rank, size = comm.rank, comm.size
base = Path(sys.argv[2])

# Ranks of one machine take themselves for ranks of several hosts, so many on each.
if ranks_of_a_host := int(os.environ.get("FSEXCHANGE_TEST_RANKS_OF_A_HOST", "0")):
    slab.this_host = lambda: (rank // ranks_of_a_host,)


def run(bodies: dict[str, Any]) -> None:
    """Run the bodies that the command line names, and say of each when all ranks have.

    Several, separated by commas, run one after the other, each in a directory of its own, which
    takes the place of the module's `base`.
    """
    names, environment = sys.argv[1].split(","), dict(os.environ)
    for name in names:
        bodies["base"] = mine = base if len(names) == 1 else base / name
        if rank == 0:
            mine.mkdir(mode=0o700, parents=True, exist_ok=True)
        comm.Barrier()
        bodies[name](*sys.argv[3:])
        comm.Barrier()
        if rank == 0:
            print(f"{name} passed on all ranks", flush=True)
        os.environ.clear()
        os.environ.update(environment)


def raises(kind: type[BaseException], call: Callable[[], Any]) -> Any:
    """Return the error that `call` raises, proven to be just of this kind."""
    try:
        result = call()
    except BaseException as error:
        assert type(error) is kind, repr(error)
        return error
    raise AssertionError(f"no error, but {result!r}"[:1000])


def raised_everywhere(kind: type[BaseException], call: Callable[[], Any]) -> str:
    """Return the message of the error that `call` raises, proven the same on all ranks."""
    message = str(raises(kind, call))
    messages: list[str] = comm.allgather(message)
    assert len(set(messages)) == 1, messages
    return message


def is_gone(path: Path) -> bool:
    """Return whether a directory that its owner removed is gone: at once, where no cache is."""
    deadline = time.monotonic() + 60  # a client of sshfs or NFS may show it for seconds more
    while path.exists() and find_filesystem(str(path)).policy.network:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return not path.exists()


def left_behind(ex: Exchange) -> list[str]:
    """Return the objects in the directory of an Exchange, once all ranks are here; collective."""
    comm.Barrier()
    found = _objects(ex)
    deadline = time.monotonic() + 60  # clients list what another has removed for seconds
    while found and ex.connector.directory.policy.network and time.monotonic() < deadline:
        time.sleep(0.1)
        found = _objects(ex)
    comm.Barrier()
    return found


def _objects(ex: Exchange) -> list[str]:
    return [
        f"{folder}/{name}"
        for folder, _, names in os.walk(ex.connector.store_dir)
        for name in names
        if not name.startswith(".")
    ]


def same(one: Any, other: Any) -> bool:
    """Return whether two objects are equal to the last bit; containers and functions, too."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.flags.writeable == other.flags.writeable
            and np.array_equal(one, other)
        )
    if isinstance(one, dict):
        return list(one) == list(other) and same(list(one.values()), list(other.values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if callable(one):
        return same(one(3), other(3))
    return bool(one == other)


@contextlib.contextmanager
def no_memory() -> Iterator[None]:
    """Have no memory that ranks of a host may share, nor any for files in a tmpfs."""
    rooms: Any = room
    memory_to_share = rooms.memory_to_share
    rooms.memory_to_share = lambda: 1 << 10
    try:
        yield
    finally:
        rooms.memory_to_share = memory_to_share
