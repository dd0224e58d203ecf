"""The ranks of a job, of which each runs the command: whether they see one directory, and how soon.

Every function here that takes a communicator is collective. A rank that fails in its part says so
to all: nobody waits for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from fsexchange.cli.findings import Finding
from fsexchange.connector import FileConnector
from fsexchange.errors import FsExchangeError
from fsexchange.filesystem import files
from fsexchange.filesystem.kinds import find_filesystem

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")
U = TypeVar("U")
Comm: TypeAlias = "MPI.Intracomm"

# What mpiexec of MPICH and Intel MPI, mpirun of Open MPI, and srun tell each process.
_LAUNCHERS = (
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # the latter is not in a batch script itself
)

# Seconds for which a host may not see what another did: NFS caches for 30, MooseFS for 30.
_PATIENCE = 45.0
_SOON = 5.0


def started_as(env: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return which rank, of how many, a launcher has started this process as; (0, 1) if none."""
    for rank, size in _LAUNCHERS:
        if env.get(rank, "").isdecimal() and env.get(size, "").isdecimal():
            return int(env[rank]), int(env[size])
    return 0, 1


def world() -> Comm:
    """Return the communicator of all ranks; this initialises MPI."""
    from mpi4py import MPI

    return MPI.COMM_WORLD


def hosts_of(comm: Comm) -> list[str]:
    """Return each rank's host."""
    return comm.allgather(os.uname().nodename)


def blind_ranks(comm: Comm, scratch: str | None) -> dict[int, str]:
    """Return what the ranks see that do not see the directory that rank 0 has just made."""
    scratch = comm.bcast(scratch, 0)
    if scratch is None:
        return {}
    token = f"{scratch}/seen-by-all"
    text = comm.bcast(_written(token) if comm.rank == 0 else None, 0)
    return dict(enumerate(comm.allgather(_what_is_seen(token, text)))) if text else {}


def _written(path: str) -> bytes:
    text = os.urandom(8).hex().encode()
    try:
        files.create(path, [text], len(text))
    except OSError:
        return b""  # rank 0's own trials say why
    return text


def _what_is_seen(path: str, text: bytes) -> str:
    """Return what is wrong with what this rank sees; empty if nothing is."""
    folder = os.path.dirname(path)
    base = os.path.dirname(folder)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            if bytes(files.read(path)) == text:
                return ""
            return f"{path} is another file there"
        except OSError as error:
            if not os.path.isdir(base):
                return f"there is no directory {base}"
            kind, policy = find_filesystem(base)
            if not policy.network:  # which forgets nothing
                return f"{base} is another directory there ({kind})"
            if time.monotonic() > deadline:
                return f"it is not seen there: {error.strerror}"
        try:
            files.listing(base)  # makes clients forget which names are missing
        except OSError:
            pass
        time.sleep(0.05)


def try_visibility(comm: Comm, scratch: str) -> Iterator[Finding]:
    """Yield how soon each other host sees what rank 0's does. At most 2 minutes."""
    hosts = hosts_of(comm)
    others = sorted(set(hosts) - {hosts[0]}) or [hosts[0]]
    connector: FileConnector | None = None
    config = None
    if comm.rank == 0:
        connector = _attempt(lambda: FileConnector(f"{scratch}/visible"), None)
        config = None if connector is None else connector.config()
    config = comm.bcast(config, 0)
    if config is None:
        return  # rank 0's own trials say why
    if comm.rank:
        connector = _attempt(lambda: FileConnector.from_config(config), None)
    if not all(comm.allgather(connector is not None)):
        yield Finding("unfit", "visibility", "some ranks cannot attach to a store in it")
        return
    assert connector is not None
    for doing, remedy, seconds in _measured(comm, connector):
        slowest = {
            host: max(s for s, of in zip(seconds, hosts, strict=True) if of == host)
            for host in others
        }
        worst = max(slowest.values())
        told = ", ".join(f"{host} after {_time(slowest[host])}" for host in others[:4])
        if worst >= _PATIENCE:
            remedy = "have it mounted with shorter caches, or choose another directory"
            yield Finding("matters", "visibility", f"{doing} was not seen: {told}", remedy)
        elif worst > _SOON:
            yield Finding("matters", "visibility", f"{doing} is seen on {told}", remedy)
        else:
            yield Finding("ok", "visibility", f"{doing} is seen on {told}")
    comm.barrier()
    connector.close()


def _measured(comm: Comm, connector: FileConnector) -> Iterator[tuple[str, str, list[float]]]:
    """Yield what rank 0 does, what to do where it is seen late, and when each rank sees it."""
    root = comm.rank == 0
    key = comm.bcast(_attempt(lambda: connector.put(b"x" * 1000), None) if root else None, 0)
    if key is None:
        return
    seconds = _seconds_until(lambda: connector.get(key) is not None)
    yield "a new object", "choose another directory", comm.allgather(seconds)
    name = comm.bcast(connector.new_key() if root else None, 0)
    _attempt(lambda: connector.exists(name), False)  # an early look, which a client remembers
    comm.barrier()
    if root:
        _attempt(lambda: connector.set(name, b"x"), None)
    comm.barrier()
    seconds = _seconds_until(lambda: connector.exists(name))
    remedy = "have it mounted with shorter caches, if you wait for what others set"
    yield "a set key", remedy, comm.allgather(seconds)
    if root:
        _attempt(lambda: connector.evict(key), None)
    comm.barrier()
    seconds = _seconds_until(lambda: not connector.exists(key))
    remedy = "until then others may still get it: tell them by a message, not by the eviction"
    yield "an eviction", remedy, comm.allgather(seconds)


def _seconds_until(seen: Callable[[], bool]) -> float:
    begin = time.monotonic()
    while not _attempt(seen, False) and time.monotonic() - begin < _PATIENCE:
        time.sleep(0.002)
    return time.monotonic() - begin


def _attempt(work: Callable[[], T], otherwise: U) -> T | U:
    """Return the result of this rank's part; it must not fail alone."""
    try:
        return work()
    except (FsExchangeError, OSError):
        return otherwise


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.0f} s"
