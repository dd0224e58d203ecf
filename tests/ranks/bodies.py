"""What the ranks of an MPI test do, the same on every rank: `bodies.py NAME DIRECTORY`.

Every assertion is made on every rank. tests/test_mpi.py launches them, with a time limit.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from fsexchange import (
    FileConnector,
    FileKey,
    InvalidKeyError,
    KeyExistsError,
    NotSharedError,
    RemoteError,
    Store,
    StoreClosedError,
    StoreError,
)
from fsexchange.mpi import Exchange
from fsexchange.serialize import deserialize, serialize

from .common import base, comm, is_gone, rank, run, size


def raised(kind: type[BaseException]) -> str:
    """Return the message of the error being handled, proven the same on all ranks."""
    error = sys.exc_info()[1]
    assert type(error) is kind, error
    messages: list[str] = comm.allgather(str(error))
    assert len(set(messages)) == 1, messages
    return messages[0]


def shares_one_directory() -> None:
    with Exchange(comm, base / "store") as ex:
        assert (ex.rank, ex.size, len(ex.hosts)) == (rank, size, size)
        assert ex.connector.owned == (rank == 0)
        assert ex.connector.store_dir == str(base / "store")
        assert len(set(comm.allgather(ex.connector.store_id))) == 1
        assert f"rank {rank} of {size}" in repr(ex)
        array = np.arange(1 << 18, dtype="f8")
        key = ex.bcast_key(ex.connector.put(serialize(array)) if rank == 0 else None)
        assert key is not None
        buffer = ex.connector.get(key)
        assert buffer is not None
        got = deserialize(buffer)
        assert got.sum() == array.sum()
        got[:] = rank  # every rank its own
        comm.Barrier()
        assert (got == rank).all()
        mine = ex.connector.put(b"rank %d" % rank)
        assert ex.connector.get_batch([k for k in ex.allgather_keys(mine) if k]) == [
            b"rank %d" % n for n in range(size)
        ]
    assert is_gone(base / "store")
    assert (got == rank).all()  # what is mapped stays


def default_directory() -> None:
    os.environ.pop("FSEXCHANGE_DIR", None)
    with Exchange(comm) as ex:
        path = Path(ex.connector.store_dir)
        assert path.parent == Path("/dev/shm")
    assert is_gone(path)
    os.environ["FSEXCHANGE_DIR"] = str(base / "place")
    with Exchange(comm) as ex, Exchange(comm) as other:
        for one in ex, other:
            assert Path(one.connector.store_dir).parent == base / "place"
        assert ex.connector.store_id != other.connector.store_id
    half = comm.Split(rank % 2)
    with Exchange(half) as ex:
        places = comm.allgather(ex.connector.store_dir)
        assert [place == places[rank] for place in places] == [
            n % 2 == rank % 2 for n in range(size)
        ]
        half.Barrier()
        if rank % 2 == 0:
            ex.close()
        comm.Barrier()
        if rank % 2:  # the end of one half is no matter of the other
            assert (ex.bcast(np.ones(2 << 20)) == 1).all()
    half.Free()
    assert is_gone(path)
    with Exchange(comm, base / "store") as ex:
        os.environ["FSEXCHANGE_STORE"] = str(base / "store")
        with Exchange(comm) as attached:
            assert attached.connector.store_id == ex.connector.store_id
            key = attached.bcast_key(attached.put("content"))
        assert key is not None
        assert ex.get(key) == "content"
    try:
        Exchange(comm)
    except StoreClosedError as error:
        assert "$FSEXCHANGE_STORE" in str(error)
    else:
        raise AssertionError("attached to a store that is gone")
    comm.Barrier()


def key_verbs() -> None:
    with Exchange(comm, base / "store") as ex:
        keys = [FileKey(f"00c0ffee00c0ffee/{n}", nbytes=1 << 40) for n in range(size)]
        for root in range(size):
            assert ex.bcast_key(keys[rank], root=root) == keys[root]
            assert ex.bcast_key(keys[rank] if rank == root else None, root) == keys[root]
            assert ex.bcast_key(None, root) is None
            assert ex.gather_keys(keys[rank], root=root) == (keys if rank == root else None)
        assert ex.allgather_keys(keys[rank]) == keys
        some = [key if n % 2 else None for n, key in enumerate(keys)]
        assert ex.allgather_keys(some[rank]) == some
        assert ex.gather_keys(some[rank]) == (some if rank == 0 else None)
        longest = FileKey("x" * 48, nbytes=(1 << 63) - 1)
        assert ex.bcast_key(longest) == longest


def no_key_on_one_rank() -> None:
    """It raises there its own error, elsewhere RemoteError, and the next call works."""
    last = size - 1
    good = FileKey("good")
    with Exchange(comm, base / "store") as ex:
        for bad in (FileKey("../x"), "text", 7, FileKey("a", None), FileKey("a", 1 << 63)):  # type: ignore[arg-type]
            mine: Any = bad if rank == last else good
            calls: dict[str, Callable[[], Any]] = {
                "bcast": partial(ex.bcast_key, mine, root=last),
                "allgather": partial(ex.allgather_keys, mine),
                "gather": partial(ex.gather_keys, mine, root=0),
            }
            for name, call in calls.items():
                try:
                    result = call()
                except InvalidKeyError:
                    assert rank == last
                except RemoteError as error:
                    assert rank != last
                    assert error.rank == last
                    assert error.host == ex.hosts[last]
                    assert f"rank {last} " in str(error)
                    assert type(error.cause) is InvalidKeyError
                else:
                    assert name == "gather", result
                    assert rank not in (0, last)
                assert ex.allgather_keys(good) == [good] * size


def every_verb_between_first_and_last() -> None:
    """On two hosts, what one does and the other sees."""
    first, last = rank == 0, rank == size - 1
    with Exchange(comm, base / "store") as ex:
        connector = ex.connector
        key = FileKey("none yet")
        for nbytes in (0, 1000, 3 << 20):
            key = ex.bcast_key(connector.put(b"x" * nbytes) if first else None) or key
            assert connector.exists(key)
            assert connector.get(key) == b"x" * nbytes  # at once, everywhere
        batch = [ex.bcast_key(k) for k in connector.put_batch([b"a", b"b"])]
        assert connector.get_batch([k for k in batch if k]) == [b"a", b"b"]

        # Looked for too early, as whoever waits does: it must not stay hidden.
        promise = ex.bcast_key(connector.new_key() if first else None)
        assert promise is not None
        assert not connector.exists(promise)
        assert connector.get(promise) is None
        comm.Barrier()
        if last:
            time.sleep(0.2)
            connector.set(promise, b"first")
            start = time.monotonic()
        else:
            connector.wait(promise, timeout=60)
            start = time.monotonic()
        assert connector.get(promise) == b"first"
        comm.Barrier()
        assert time.monotonic() - start < 15  # not the 30 s of a negative entry
        if last:
            connector.set(promise, b"the second")
        comm.Barrier()
        assert connector.get(promise) in (b"first", b"the second")

        comm.Barrier()
        if last:
            connector.evict(key)
            connector.evict(promise)
        comm.Barrier()
        deadline = time.monotonic() + 60
        while connector.exists(key) or connector.get(key) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        clone = FileConnector.from_config(connector.config())
        key = connector.put(b"x")
    try:
        clone.get(key)
    except StoreClosedError:
        pass
    else:
        raise AssertionError("no error")
    clone.close()


def futures_and_names_between_first_and_last() -> None:
    """Waited for from the start, long before they are set."""
    with Exchange(comm, base / "store") as ex:
        store = Store(ex.connector)
        futures = comm.bcast([store.future() for _ in range(3)] if rank == 0 else None)
        assert not any(future.done() for future in futures)
        assert "mesh" not in store.names
        comm.Barrier()
        for n, future in enumerate(futures):
            if rank == size - 1:
                time.sleep(0.7)  # the others wait already
                future.set_result(np.full(200_000, n) if n else time.time())
            value = future.result(timeout=60)
            if n == 0:
                assert time.time() - value < 15  # not the 30 s of a negative entry
            else:
                assert (value == n).all()
        if rank == size - 1:
            time.sleep(0.7)
            store.put("named", name="mesh")
        store.wait("mesh", timeout=60)
        assert store.get("mesh") == "named"
        assert list(store.names) == ["mesh"]
        winners = 0
        try:
            futures[0].set_result("again")
            winners += 1
        except KeyExistsError:
            pass
        assert comm.allreduce(winners) == 0
        race = comm.bcast(store.future() if rank == 0 else None)
        comm.Barrier()
        try:
            race.set_result(rank)
            winners += 1
        except KeyExistsError:
            pass
        assert comm.allreduce(winners) == 1


def another_root() -> None:
    last = size - 1
    with Exchange(comm, base / "store", root=last) as ex:
        assert ex.connector.owned == (rank == last)
        key = ex.bcast_key(ex.connector.put(b"x"), root=last)
        assert key is not None
        assert ex.connector.get(key) == b"x"
    assert is_gone(base / "store")


def split_and_nested() -> None:
    """Several at once, over parts of the world; one directory each."""
    half = comm.Split(rank % 2, rank)
    with Exchange(comm, base / "world") as world, Exchange(half, base / f"half-{rank % 2}") as ex:
        assert (ex.rank, ex.size) == (half.rank, half.size)
        keys = ex.allgather_keys(ex.connector.put(b"%d" % rank))
        members = [n for n in range(size) if n % 2 == rank % 2]
        assert ex.connector.get_batch([k for k in keys if k]) == [b"%d" % n for n in members]
        assert world.connector.get(FileKey(keys[0].filename)) is None  # type: ignore[union-attr]
    half.Free()
    with Exchange(MPI.COMM_SELF, base / f"self-{rank}") as alone:
        assert alone.allgather_keys(FileKey("x")) == [FileKey("x")]


def root_cannot_create() -> None:
    path = base / "file"
    if rank == 0:
        path.write_bytes(b"mine")
    for where in (path, path / "below"):
        try:
            Exchange(comm, where)
        except StoreError:
            assert "ot a directory" in raised(StoreError)
        else:
            raise AssertionError("no error")
    try:
        Exchange(comm, 7)  # type: ignore[arg-type]
    except TypeError:
        raised(TypeError)
    with Exchange(comm, base / "store"):  # and no harm is done
        pass


def wrong_arguments() -> None:
    for root in (-1, size, rank if size > 1 else 1):
        try:
            Exchange(comm, base / "store", root=root)
        except ValueError:
            assert "root must be the same rank" in raised(ValueError)
        else:
            raise AssertionError("no error")
    if size > 1:
        half = comm.Split(rank % 2)
        assert isinstance(half, MPI.Intracomm)
        inter = half.Create_intercomm(0, comm, 1 - rank % 2)
        try:
            Exchange(inter, base / "store")
        except ValueError:
            assert "intracommunicator" in raised(ValueError)
        inter.Free()
        half.Free()
    try:
        Exchange(str(base))  # type: ignore[arg-type]
    except ValueError:
        assert "`store_dir`" in raised(ValueError)
    else:
        raise AssertionError("no error")
    with Exchange(comm, base / "store") as ex:
        for verb in ("bcast", "scatter", "gather", "reduce"):
            try:
                if rank == 0:
                    getattr(ex, verb)(None, root=None)
            except TypeError:
                pass
            else:
                assert rank > 0
        assert ex.allgather(rank) == [*range(size)]  # it is as if nothing was called
    assert is_gone(base / "store")


def all_ranks_raise() -> None:
    """The exception goes on, and the store is cleared."""
    try:
        with Exchange(comm, base / "store", abort_timeout=60) as ex:
            ex.connector.put(b"x")
            raise KeyError("mine")
    except KeyError:
        assert is_gone(base / "store")
    else:
        raise AssertionError("no error")


def one_rank_raises_late() -> None:
    """The others are at the end already: all leave, the exception goes on where it was."""
    try:
        with Exchange(comm, base / "store", abort_timeout=60):
            if rank == size - 1:
                time.sleep(0.2)
                raise KeyError("mine")
    except KeyError:
        assert rank == size - 1
    assert is_gone(base / "store")


def use_after_close() -> None:
    ex = Exchange(comm, base / "store")
    key = ex.connector.put(b"x")
    ex.close()
    ex.close()
    for use in (
        lambda: ex.bcast_key(key),
        lambda: ex.gather_keys(key),
        lambda: ex.allgather_keys(key),
        lambda: ex.connector.get(key),
    ):
        try:
            use()
        except StoreClosedError:
            pass
        else:
            raise AssertionError("no error")


def live_store_of_another() -> None:
    """A job script's store: the ranks attach, and leave it to its owner."""
    with FileConnector(base / "store") if rank == 0 else open(os.devnull) as mine:
        with Exchange(comm, base / "store") as ex:
            assert not ex.connector.owned
            key = ex.bcast_key(ex.connector.put(b"x") if rank == 0 else None)
            assert key is not None
            assert ex.connector.get(key) == b"x"
        if rank == 0:
            assert mine.get(key) == b"x"  # type: ignore[union-attr]
        comm.Barrier()


def kept_store() -> None:
    with Exchange(comm, base / "store", clear=False) as ex:
        key = ex.bcast_key(ex.connector.put(b"x") if rank == 0 else None)
    with Exchange(comm, base / "store") as ex:
        assert key is not None
        assert ex.connector.get(key) == b"x"
    assert (base / "store").exists()


def not_shared() -> None:
    """Launched so that the last rank sees another file system under the same path."""
    blind = size - 1
    try:
        Exchange(comm, base / "store")
    except NotSharedError as error:
        message = raised(NotSharedError)
        assert list(error.ranks) == [blind]
        assert f"1 of {size} ranks do not see {base}/store" in message
        assert f"ranks {blind} on {MPI.Get_processor_name()}" in message
    else:
        raise AssertionError("no error")
    assert is_gone(base / "store")


# ---- jobs that end before their time ------------------------------------------------------------


def one_rank_raises_in_a_store_of_another() -> None:
    """Launched with a store in place that outlives the job."""
    with Exchange(comm, base / "store", abort_timeout=1) as ex:
        assert not ex.connector.owned
        if rank == size - 1:
            raise KeyError("the reason")
        ex.allgather_keys(None)


def one_rank_is_killed() -> None:
    with Exchange(comm, base / "store") as ex:
        ex.connector.put(b"left behind")
        comm.Barrier()
        if rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        ex.allgather_keys(None)


if __name__ == "__main__":
    run(globals())
