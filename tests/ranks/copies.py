"""Copies of objects in a host's memory: `copies.py NAME DIRECTORY`."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from fsexchange import FileKey, MissingObjectError, Store
from fsexchange.connector import hostcache
from fsexchange.mpi import Exchange

from .common import base, comm, raised_everywhere, raises, rank, run, size

MIB = 1 << 20


def exchange(**options: Any) -> Exchange:
    """Return an Exchange over a directory that cannot be trusted with mappings."""
    ex = Exchange(comm, base / "store", **options)
    unmapped(ex.store)
    return ex


def unmapped(store: Store) -> None:
    directory = store.connector.directory
    directory._policy = directory.policy._replace(mappable=False)


def put(ex: Exchange, nbytes: int, count: int = 1) -> list[FileKey]:
    """Return the keys of arrays of one rank, on all ranks."""
    arrays = [np.full(nbytes, n + 1, "u1") for n in range(count)]
    keys: list[FileKey] = comm.bcast([ex.put(array) for array in arrays] if rank == 0 else None)
    return keys


def copied(ex: Exchange) -> list[str]:
    """Return what of there are copies on this host, once all ranks are here."""
    comm.Barrier()
    path = ex._members.copies.path
    found = os.listdir(path) if os.path.isdir(path) else []
    comm.Barrier()
    return sorted(name.replace("-", "/") for name in found if "-" in name and name[0] != ".")


def read_by_all(call: Any) -> tuple[Any, float, float]:
    """Return what `call` returns, the bytes that all ranks read by it, and their new memory."""
    comm.Barrier()
    memory, before = psutil.Process().memory_full_info().pss, _read()
    comm.Barrier()
    got = call()
    comm.Barrier()
    after = _read()
    int(np.asarray(got).sum())
    comm.Barrier()
    grown = psutil.Process().memory_full_info().pss - memory
    comm.Barrier()
    return got, comm.allreduce(after - before), comm.allreduce(grown)


def _read() -> int:
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])


def read_once() -> None:
    """Whoever comes first; and one copy of it is in memory."""
    nbytes = 32 * MIB
    for limit in (None, 0):
        with exchange(host_cache=limit) as ex:
            wanted = size if limit == 0 else len({*ex.hosts})
            (key,) = put(ex, nbytes)
            got, read, grown = read_by_all(partial(ex.get, key))
            assert np.array_equal(got, np.full(nbytes, 1, "u1"))
            assert 0.98 * wanted < read / nbytes < 1.02 * wanted + 0.1, (limit, read / nbytes)
            assert 0.9 * wanted < grown / nbytes < 1.1 * wanted + 0.1, (limit, grown / nbytes)
            got[:100] = rank
            again, read, _ = read_by_all(partial(ex.get, key))
            assert int(again[:100].sum()) == 100
            shared = ex.hosts.count(ex.hosts[rank]) > 1
            assert size == wanted or limit == 0 or read < nbytes / 10
            assert copied(ex) == ([key.filename] if shared and limit is None else [])
            path = ex._members.copies.path
            assert os.path.exists(path) == (shared and limit is None)
            comm.Barrier()
        assert not os.path.exists(path)


def limits() -> None:
    with exchange(host_cache=7 * MIB // 2) as ex:
        keys = put(ex, MIB, 12)
        for turn in range(3 * len(keys)):
            n = (turn * (rank + 1) + rank) % len(keys)
            assert int(ex.get(keys[n])[-1]) == n + 1
            assert len(copied(ex)) <= 3
        assert len(copied(ex)) == (3 if size > 1 else 0)


def evicted() -> None:
    with exchange() as ex:
        for root in range(size):
            one, other = put(ex, MIB, 2)
            assert int(ex.get(one)[5]) == 1
            comm.Barrier()
            if rank == root:
                ex.evict(one)
            comm.Barrier()
            raises(MissingObjectError, partial(ex.get, one))
            assert int(ex.get(other)[5]) == 2
            here = [other] if ex.hosts[rank] == ex.hosts[root] else [one, other]
            assert copied(ex) == sorted(each.filename for each in here if size > 1)
            ex.evict(one)
            ex.evict(other)
            assert copied(ex) == []


def of_a_part() -> None:
    """Parts of an Exchange, and one over the same directory, share its copies."""
    with exchange() as ex:
        (key,) = put(ex, MIB)
        with ex.Split(rank % 2, rank) as half:
            assert int(half.get(key)[5]) == 1
            assert len(copied(ex)) == (size > 1)
        with Exchange(comm, ex.connector.store_dir) as other:
            unmapped(other.store)
            assert int(other.get(key)[5]) == 1
            assert not os.path.exists(other._members.copies.path)
        assert int(ex.get(key)[5]) == 1
        assert len(copied(ex)) == (size > 1)


def handles() -> None:
    """A handle that arrives in a message finds the copies; a message of its own makes none."""
    with exchange(inline_limit=0) as ex:
        ref = ex.bcast(ex.ref(np.ones(MIB, "u1")) if rank == 0 else None)
        unmapped(ref.store)
        assert int(ref.get().sum()) == MIB
        assert len(copied(ex)) == (size > 1)
        got = ex.sendrecv(np.ones(9 * MIB, "u1"), (rank + 1) % size, source=(rank - 1) % size)
        assert int(got.sum()) == 9 * MIB
        assert len(copied(ex)) == (size > 1)


def wrong_limits() -> None:
    for limit in (-1, "1 GiB", 0.5):
        message = raised_everywhere(ValueError, partial(exchange, host_cache=limit))
        assert "host_cache" in message
        assert repr(limit) in message


def full() -> None:
    """Where the host's memory is too small for a copy, each rank reads."""
    hostcache.BASE = str(base / "small")
    with exchange(host_cache=100 * MIB) as ex:
        small, large = put(ex, MIB)[0], put(ex, 9 * MIB)[0]
        for _ in range(2):
            assert int(ex.get(large)[-1]) == int(ex.get(small)[-1]) == 1
            assert copied(ex) == [small.filename]
    assert not os.listdir(base / "small")


def abort() -> None:
    ex = exchange()
    (key,) = put(ex, MIB)
    if rank == 0:
        ex.get(key)  # its copies are this rank's
    comm.Barrier()
    if rank == size - 1:
        assert Path(ex._members.copies.path).exists()
        ex.Abort(7)
    comm.Barrier()


def killed() -> None:
    hostcache.BASE = str(base / "host")
    ex = exchange()
    (key,) = put(ex, MIB)
    if rank == 0:
        os.sendfile = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        ex.get(key)
    comm.Barrier()


def after_a_killed_job(left: str) -> None:
    hostcache.BASE = str(base / "host")
    assert (base / "host" / left).exists()
    comm.Barrier()
    with exchange() as ex:
        (key,) = put(ex, MIB)
        assert int(ex.get(key)[5]) == 1
        assert copied(ex) == [key.filename]
        assert not (base / "host" / left).exists()


if __name__ == "__main__":
    run(globals())
