"""What ranks exchange by an Exchange's verbs, against mpi4py's own: `verbs.py NAME DIRECTORY`.

Every assertion is made on every rank. tests/test_exchange.py launches them, with a time limit.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
from mpi4py import MPI

from fsexchange import (
    FileKey,
    InvalidKeyError,
    MissingObjectError,
    RemoteError,
    SerializationError,
    StoreClosedError,
    StoreError,
)
from fsexchange.mpi import (
    Exchange,
    Request,
    bodies,
    carriers,
    connect,
    limits,
    outgoing,
    packets,
    slab,
)
from fsexchange.mpi.membership import ArgumentError
from fsexchange.mpi.room import HostRoom

from .common import (
    base,
    comm,
    left_behind,
    no_memory,
    raised_everywhere,
    raises,
    rank,
    ranks_of_a_host,
    run,
    same,
    size,
)

# Bytes above the limit for what rides in a message, where that is `LIMIT` for the copies of a host.
LARGE = 9 << 20
LIMIT = (ranks_of_a_host or size) * (8 << 20)
last = size - 1
right, left = (rank + 1) % size, (rank - 1) % size


def objects(n: int) -> dict[str, Any]:
    """Return objects of rank `n`, by what they are."""
    array = np.arange(1000.0) + n
    return {
        "None": None,
        "small": {"rank": n, "text": "é" * n},
        "empty": [np.empty((0, 3)), b"", {}, ""],
        "some KiB": np.full(3000, n, "f4"),
        "some 100 KiB": bytes([n]) * 300_001,
        "1 MiB": np.arange(n, n + (1 << 17)),
        "large": np.full(LARGE // 8, n, "i8"),
        "strided": np.arange(n, n + LARGE // 4, dtype="i8")[::2],
        "Fortran": np.asfortranarray(np.arange(n, n + 12.0).reshape(3, 4)),
        "nested": [array, {"same": array, "large": np.full(LARGE, n, "u1")}, (n, None)],
        "lambda": lambda x: x + n,
        "closure over an array": lambda x: array[x] * n,
    }


def program(way: Any, obj: Any) -> dict[str, Any]:
    """Use every verb once; `way` is an Exchange or a communicator."""
    status = MPI.Status()
    results: dict[str, Any] = {
        "bcast": way.bcast(obj if rank == last else None, root=last),
        "gather": way.gather(obj, last),
        "allgather": way.allgather(obj),
        "scatter": way.scatter([obj] * size if rank == 0 else None),
        "alltoall": way.alltoall([(obj, to) for to in range(size)]),
        "barrier": way.barrier(),
        "sendrecv": way.sendrecv(obj, right, 7, None, left, 7, status),
        "its status": (status.source, status.tag),
    }
    other = rank ^ 1
    if rank < other < size:
        results["send"] = way.send(obj, other, 3)
        results["recv"] = way.recv(source=other, tag=4)
    elif other < size:
        results["recv"] = way.recv(None, other, 3, status)
        results["send"] = way.send(obj, other, tag=4)
    sent = way.isend(obj, dest=right, tag=11)
    buffer = bytearray(40 << 20)  # mpi4py's irecv needs one that is large enough
    received = way.irecv(buffer, source=left, tag=11)
    results["irecv"] = received.wait(status)
    results["isend"] = sent.wait()
    sent, received = way.isend(obj, right), way.irecv(buffer, left)
    done = False
    while not done:
        done, results["tested"] = received.test(status)
    while not sent.test()[0]:
        pass
    results["another status"] = (status.source, status.tag)
    results["again"] = (received.wait(), sent.wait(), received.test())
    return results


def same_as_mpi4py() -> None:
    """In each way an object may go, and nothing is left in the directory."""
    MPI.pickle.__init__(cloudpickle.dumps, cloudpickle.loads)  # type: ignore[misc]
    theirs = {name: program(comm, obj) for name, obj in objects(rank).items()}
    for limit in (LIMIT, 0, 1 << 40)[: 3 if size < 3 else 2 if size < 8 else 1]:
        with Exchange(comm, base / f"store-{limit}", inline_limit=limit) as ex:
            for name, obj in objects(rank).items():
                ours = program(ex, obj)
                assert list(ours) == list(theirs[name])
                for verb, result in ours.items():
                    assert same(result, theirs[name][verb]), (limit, name, verb)
                assert left_behind(ex) == []


def hundred_mebibytes() -> None:
    """Every verb, with the most ranks that such lists have room for on a small machine."""
    obj = np.arange(100 << 17) + rank
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for way in ("bcast", "scatter", "gather", "allgather", "alltoall"):
            for result in (
                getattr(way_of, way)([obj] * size if way in ("scatter", "alltoall") else obj)
                for way_of in ((ex,) if size > 2 and way[0] in "ga" else (ex, comm))
            ):
                for source, array in enumerate(result if isinstance(result, list) else [result]):
                    if array is not None:
                        assert array[0] == source
                        assert (np.diff(array) == 1).all()
        assert left_behind(ex) == []
        if rank < 2 <= size:
            ex.send(obj, 1 - rank)  # both at once
            assert np.array_equal(ex.recv(source=1 - rank), obj - rank + 1 - rank)
        assert left_behind(ex) == []


def results_are_private() -> None:
    """Writing to one changes neither the root's own object nor another rank's result."""
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for nbytes in (1 << 10, 1 << 20, LARGE):
            mine = np.zeros(nbytes, "u1")
            results = [
                ex.bcast(mine),
                *ex.allgather(mine),
                ex.scatter([mine] * size),
                *ex.alltoall([mine] * size),
                *(ex.gather(mine) or []),
                ex.sendrecv(mine, right, source=left),
            ]
            for n, result in enumerate(results):
                result[:] = n + 1 + rank
            comm.Barrier()
            assert not mine.any()
            assert all((result == n + 1 + rank).all() for n, result in enumerate(results))


def same_results_by_every_way_of_a_bcast() -> None:
    """A root takes several in turn; what it sent stays its own."""
    with Exchange(comm, base / "store") as ex:
        for nbytes in (100 << 10, 1 << 20, 5 << 20):
            array = np.arange(nbytes // 8)
            for n in range(7):
                objs = {
                    "array": array,
                    "columns": array.reshape(-1, 128).T,
                    "arrays": [array, array[:5], array[::-2], "text"],
                    "bytes": array.tobytes(),
                    "mixed": {"bytes": array.tobytes(), "array": array},
                }
                for name, obj in objs.items():
                    result = ex.bcast(obj if rank == last else None, root=last)
                    np.testing.assert_equal(result, obj)
                    for each in result if name == "arrays" else [result]:
                        if isinstance(each, np.ndarray):
                            each[...] = -1
                    assert array[0] == n
                    assert array[-1] == n + len(array) - 1
                array += 1


def _calls_within(name: str) -> Any:
    return name, Calling.within.allgather([name] * 3)


class Calling:
    """Calls a collective while it is pickled, and while it is loaded."""

    within: Exchange

    def __reduce__(self) -> Any:
        self.within.bcast("pickled")
        return _calls_within, ("loaded",)


def packets_are_used_again() -> None:
    """Never while a result shows one, nor while another call uses it."""
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        kept = []
        for n in range(3):
            array = [np.full(1100, n, "u1")]  # beside its pickle, and still in the packet
            results = [ex.bcast(array), *ex.allgather(array), ex.scatter([array] * size)]
            results += ex.alltoall([array] * size) + (ex.gather(array, root=last) or [])
            kept += [(result, n) for result in results]
            assert ex.allgather("x" * n) == ["x" * n] * size  # shorter than what was there
        assert all((result[0] == n).all() for result, n in kept)
        Calling.within = ex
        inner = "loaded", [["loaded"] * 3] * size
        assert ex.allgather(Calling()) == [inner] * size
        assert ex.alltoall([Calling()] * size) == [inner] * size
        assert left_behind(ex) == []


def what_was_sent_may_change_at_once() -> None:
    """Also where it is sent straight from the sender's array, or from several."""
    calls: list[Callable[[Exchange, Any], Any]] = [
        lambda ex, obj: ex.bcast(obj, root=last),
        lambda ex, obj: ex.gather(obj, root=last),
        lambda ex, obj: ex.allgather(obj),
        lambda ex, obj: ex.scatter([obj] * size, root=last),
        lambda ex, obj: ex.alltoall([obj] * size),
        lambda ex, obj: ex.sendrecv(obj, right, source=left),
        lambda ex, obj: ex.recv(source=left) if rank % 2 else ex.send(obj, right),
        lambda ex, obj: ex.send(obj, right) if rank % 2 else ex.recv(source=left),
        lambda ex, obj: (ex.isend(obj, right), ex.irecv(source=left)),
    ]
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for nbytes in (1 << 10, 5 << 10, 100 << 10, 3 << 20, LARGE):
            for call in calls if size % 2 == 0 else calls[:6]:
                mine = [np.full(nbytes // 2, rank, "u1"), np.full(nbytes, rank, "u1")]
                for obj in (mine[1], mine):
                    result = call(ex, obj)
                    for array in mine:
                        array[:] = 255
                    if isinstance(result, tuple):
                        result = result[1].wait()
                    if isinstance(result, list) and obj is mine[1]:
                        assert all((array == n).all() for n, array in enumerate(result))
                    elif isinstance(result, np.ndarray):
                        assert (result == result[0]).all()
                        assert result[0] in (last, left)
                    elif result is not None:
                        assert 255 not in np.concatenate(list(_flat(result)))
                    comm.Barrier()
                    for array in mine:
                        array[:] = rank


def _flat(objs: Any) -> Iterator[Any]:
    for obj in objs:
        yield from [obj] if isinstance(obj, np.ndarray) else _flat(obj)


def loops_stay_bounded() -> None:
    """What is printed is looked at by the test, too."""
    process = psutil.Process()
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for times, nbytes in ((30_000, 1 << 10), (1_000, 4 << 20), (200, LARGE)):
            array = np.ones(nbytes // 8)
            ex.bcast(array)
            most_files = 0
            before = len(process.open_files()), len(process.memory_maps(grouped=False))
            memory = process.memory_info().rss
            for n in range(times):
                got = ex.bcast(array if rank == 0 else None)
                assert len(got) == nbytes // 8
                if rank == 0 and n % (times // 50) == 0:
                    most_files = max(
                        most_files, sum(len(names) for _, _, names in os.walk(base / "store"))
                    )
            after = len(process.open_files()), len(process.memory_maps(grouped=False))
            more = process.memory_info().rss - memory
            most = comm.allreduce(max(after[1] - before[1], after[0] - before[0]), op=MPI.MAX)
            if rank == 0:
                print(f"{times} bcasts of {nbytes} bytes: at most {most_files} files,")
                print(f"{most} more maps or open files, {more >> 10} KiB more memory")
                assert most_files < 20
            assert most < 20
            assert more < 64 << 20
            del got
            assert left_behind(ex) == []


def any_source_and_tag() -> None:
    status = MPI.Status()
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for nbytes in (10, 100_000, LARGE):
            if rank:
                ex.send((rank, b"x" * nbytes), 0, tag=rank)
            else:
                seen = set()
                for _ in range(1, size):
                    source, data = ex.recv(status=status)
                    assert (status.Get_source(), status.Get_tag()) == (source, source)
                    assert len(data) == nbytes
                    seen.add(source)
                assert seen == set(range(1, size))
            comm.Barrier()
            # By requests, which take what comes in the order they were made.
            if rank == 0:
                requests = [ex.irecv() for _ in range(1, size)]
                assert {request.wait()[0] for request in reversed(requests)} == set(range(1, size))
            else:
                ex.send((rank, b"x" * nbytes), 0)
            comm.Barrier()
            if rank == 0 != last:
                first, second = ex.irecv(), ex.irecv(tag=4)
                assert comm.sendrecv(None, last, source=last) is None
                assert (second.wait(), first.wait()) == ((4, b"x" * nbytes), (3, b"x" * nbytes))
            if rank == last != 0:
                sent = [ex.isend((tag, b"x" * nbytes), 0, tag) for tag in (3, 4)]
                comm.sendrecv(None, 0, source=0)
                Request.waitall(sent)
            comm.Barrier()
            # Of one sender, by tags, in another order than they were sent.
            if rank == 0:
                for tag in range(3):
                    ex.isend((tag, b"x" * nbytes), last, tag)
            if rank == last:
                assert [ex.recv(source=0, tag=tag)[0] for tag in (2, 0, 1)] == [2, 0, 1]
            # Without tags they come in the order they were sent.
            requests = [ex.isend((n, b"x" * nbytes), right, n) for n in range(5)]
            receives = [ex.irecv(source=left) for _ in range(5)]
            assert [r[0] for r in Request.waitall(receives)] == [0, 1, 2, 3, 4]
            assert Request.waitall(requests) == [None] * 5
        # Nobody.
        ex.send("x", MPI.PROC_NULL)
        assert ex.recv(source=MPI.PROC_NULL, status=status) is None
        assert status.source == MPI.PROC_NULL
        assert ex.sendrecv("x", MPI.PROC_NULL, source=MPI.PROC_NULL) is None
        assert ex.irecv(source=MPI.PROC_NULL).wait() is None
        assert ex.isend("x", MPI.PROC_NULL).test() == (True, None)
        ex.send_key(FileKey("x"), MPI.PROC_NULL)
        assert ex.recv_key(source=MPI.PROC_NULL) is None
        assert left_behind(ex) == []


def users_own_messages_do_not_mix() -> None:
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        assert MPI.Comm.Compare(ex, comm) == MPI.CONGRUENT
        sent = comm.isend("mine", right)
        ex.isend("yours", right)
        assert ex.recv() == "yours"
        assert comm.recv() == "mine"
        sent.wait()


def sender_may_compute_on() -> None:
    """What was sent arrives although its sender is in no call of MPI any more."""
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for n, nbytes in enumerate((100, 5_000, 1 << 20, LARGE)):
            arrived = base / f"arrived-{n}"
            comm.Barrier()
            if rank == 0:
                ex.send(b"x" * nbytes, last)
                deadline = time.monotonic() + 30
                # Listed, not looked for: a client may remember that a name is not there.
                while size > 1 and arrived.name not in os.listdir(base):
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            if rank == last:
                time.sleep(0.2)
                assert len(ex.recv(source=0)) == nbytes
                arrived.touch()
        assert left_behind(ex) == []


def receiver_may_lag() -> None:
    """Much that is sent waits in files, in order, not in the sender's memory."""
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        if rank == 0:
            before = psutil.Process().memory_info().rss
            for n in range(20_000):
                ex.isend(n, last)
            for n in range(500):
                ex.isend(bytes([n % 256]) * 1_000_000, last)
            assert psutil.Process().memory_info().rss - before < 200 << 20
        else:
            time.sleep(0.5)
        if rank == last:
            for n in range(20_000):
                assert ex.recv(source=0) == n
            for n in range(500):
                data = ex.recv(source=0)
                assert (data[0], len(data)) == (n % 256, 1_000_000)
        assert left_behind(ex) == []


def head_to_head() -> None:
    """1 GiB both ways, first sent, then received."""
    other = 1 - rank
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        obj = np.full(1 << 30, rank, "u1")
        ex.send(obj, other)
        got = ex.recv(source=other)
        assert got[0] == got[-1] == other
        assert len(got) == 1 << 30


def sent_to_oneself() -> None:
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for nbytes in (10, 100_000, LARGE):
            ex.send(b"x" * nbytes, rank)
            assert len(ex.recv(source=rank)) == nbytes
            request = ex.isend(b"y" * nbytes, rank, 5)
            assert ex.irecv(source=rank, tag=5).wait() == b"y" * nbytes
            request.wait()


def undelivered_messages_end_with_the_exchange() -> None:
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for nbytes in (10, 100_000, LARGE):
            ex.send(b"x" * nbytes, right)
            ex.isend(b"x" * nbytes, right)
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        assert ex.allgather(rank) == list(range(size))


def dropped_receives_write_nowhere() -> None:
    """MPI may write for as long as a receive is posted, whoever has forgotten its request."""
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for _ in range(50):
            ex.irecv(source=left, tag=5)
        taken = [bytearray(b"?") * (1 << 15) for _ in range(200)]  # perhaps what was theirs
        ex.barrier()
        for _ in range(50):
            ex.send(b"x" * 3000, right, 5)
        assert ex.allgather(rank) == list(range(size))
        assert all(each.count(b"?") == len(each) for each in taken)


def careless_use() -> None:
    """What is dropped, never received, crowded or wrong does no harm, in a store that is kept."""
    with Exchange(comm, base / "store", clear=False, inline_limit=LIMIT) as ex:
        ex.irecv(source=left, tag=99)
        tags: list[Any] = [1 << 40, "x", None]
        for tag in tags:
            for verb in (ex.isend, ex.send):
                raises(TypeError if tag != 1 << 40 else OverflowError, partial(verb, 1, right, tag))
            wrong: Any = partial(ex.sendrecv, 1, right, tag, None, left)
            raises(TypeError if tag != 1 << 40 else OverflowError, wrong)
        # Arrays are aligned, whatever comes before them.
        for array in ex.allgather("abc" * rank if rank % 2 else np.ones(100 + rank)):
            assert isinstance(array, str) or array.flags.aligned
        # More on its way than is kept in memory, and then as before.
        requests = [ex.isend(np.full(1 << 19, n), right, n) for n in range(12)]
        for n in range(12):
            assert (ex.recv(source=left, tag=n) == n).all()
        Request.waitall(requests)
        ex.isend("small", right)
        assert ex.recv(source=left) == "small"
        assert left_behind(ex) == []
        # Received by who only looks now and then.
        for nbytes in (10, 1_000_000, LARGE):
            request = ex.irecv(source=left, tag=5)
            ex.send(b"x" * nbytes, right, 5)
            done = False
            while not done:
                done, data = request.test()
            assert data is not None
            assert len(data) == nbytes
        # Several at once, of which one fails.
        good, bad = ex.irecv(source=left, tag=1), ex.irecv(source=left, tag=2)
        ex.isend(LoadsNot(), right, 2)
        ex.isend(np.ones(LARGE, "u1"), right, 1)
        raises(ZeroDivisionError, bad.wait)
        assert good.wait().all()
        assert left_behind(ex) == []
        # Never received.
        ex.send(np.ones(LARGE, "u1"), right, 98)
        ex.isend(np.ones(1 << 16), right, 97)
        ex.irecv(source=left, tag=97)
    assert not list(Path(base / "store").glob("*/[0-9]*"))


def keys_of_objects_that_stay() -> None:
    keys = [FileKey(f"00c0ffee00c0ffee/{n}", nbytes=n) for n in range(size)]
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        mine = ex.put([rank])
        everyones = ex.allgather_keys(mine)
        assert [ex.get(key) for key in everyones if key] == [[n] for n in range(size)]
        assert ex.scatter_keys(keys if rank == last else None, root=last) == keys[rank]
        assert ex.scatter_keys() is None
        assert ex.alltoall_keys([keys[rank]] * size) == keys
        assert ex.alltoall_keys([None, *keys[1:]]) == [None if rank == 0 else keys[rank]] * size
        status = MPI.Status()
        ex.send_key(keys[rank], right, tag=rank)
        assert ex.recv_key(left, status=status) == keys[left]
        assert (status.source, status.tag) == (left, left)
        ex.send_key(None, right)
        assert ex.recv_key() is None
        comm.Barrier()
        ex.evict(mine)
        assert left_behind(ex) == []

        # What is no key: the sender's own error, and RemoteError for whoever waits for it.
        good, bad = FileKey("good"), FileKey("../bad")
        for wrong in ([bad] * size, [good] * (size + 1), [good] * (size - 1)):
            mistake = InvalidKeyError if len(wrong) == size else ValueError
            here: list[FileKey | None] = list(wrong) if rank == 0 else [good] * size
            raises(mistake if rank == 0 else RemoteError, partial(ex.scatter_keys, here))
            raises(mistake if rank == 0 else RemoteError, partial(ex.alltoall_keys, here))
        raises(InvalidKeyError, lambda: ex.send_key(bad, right))  # nothing was sent
        assert ex.allgather(rank) == list(range(size))
        # A key is an object like others, and other objects are no keys.
        ex.send_key(good, right)
        assert ex.recv(source=left) == good
        ex.send(good, right)
        assert ex.recv_key(left) == good
        for no_key in (OSError(2, "with a", "file name"), *("x" * n for n in (1, 100_000, LARGE))):
            ex.send(no_key, right)
            assert f"what rank {left} sent" in str(
                raises(InvalidKeyError, partial(ex.recv_key, left))
            )
        assert left_behind(ex) == []
    # Keys never move to files, whatever the limit.
    with Exchange(comm, base / "store", inline_limit=0) as ex:
        connector: Any = ex.connector
        connector.put = None
        assert ex.allgather_keys(keys[rank]) == keys
        assert ex.bcast_key(keys[rank], last) == keys[last]
        assert ex.scatter_keys(keys) == keys[rank]
        assert ex.alltoall_keys([keys[rank]] * size) == keys
        ex.send_key(keys[rank], right)
        assert ex.recv_key(left) == keys[left]


class Member:
    """Names what cannot be pickled."""

    lock = threading.Lock()

    def rank(self) -> int:
        assert self.lock
        return comm.rank


def classes_of_the_script() -> None:
    """By reference, as mpi4py sends them, in every collective."""
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for obj in (Member(), [Member(), np.ones(LARGE // 8)]):
            for result in (
                [ex.bcast(obj)],
                ex.allgather(obj),
                ex.gather(obj, root=last) or [],
                [ex.scatter([obj] * size)],
                ex.alltoall([obj] * size),
                [ex.allreduce(obj, op=lambda one, other: other)],
            ):
                for each in result:
                    found = each[0] if isinstance(each, list) else each
                    assert type(found) is Member
                    assert found.rank() == rank
        assert left_behind(ex) == []


def local_store() -> None:
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        assert ex.store.connector is ex.connector
        ref = ex.ref(np.full(10, rank))
        refs = ex.allgather(ref)
        assert [int(r.get().sum()) for r in refs] == [10 * n for n in range(size)]
        if rank == 0:
            ex.put("found", name="by its name")
        ex.barrier()
        assert ex.get("by its name") == "found"
        raises(MissingObjectError, lambda: ex.get("by another"))
    assert connect is Exchange


# ---- errors -------------------------------------------------------------------------------------


def one_rank_fails() -> None:
    """Its own error there, RemoteError where its data is waited for, and life goes on."""
    lock = threading.Lock()
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for bad in range(size):
            obj = lock if rank == bad else rank
            objs = [obj] * size
            short = [1] * (size + 1) if rank == bad else objs
            for name, call, waiting in (
                ("bcast", partial(ex.bcast, obj, bad), {*range(size)}),
                ("gather", partial(ex.gather, obj), {0}),
                ("allgather", partial(ex.allgather, obj), {*range(size)}),
                ("scatter", partial(ex.scatter, objs, bad), {*range(size)}),
                ("alltoall", partial(ex.alltoall, objs), {*range(size)}),
                ("long list", partial(ex.scatter, short, bad), {*range(size)}),
                ("long lists", partial(ex.alltoall, short), {*range(size)}),
            ):
                if rank == bad:
                    kind = ValueError if "long" in name else SerializationError
                    error = raises(kind, call)
                    assert "lock" in str(error) or f"each of the {size} ranks" in str(error)
                elif rank in waiting:
                    error = raises(RemoteError, call)
                    assert (error.rank, error.host) == (bad, ex.hosts[bad])
                    cause = ValueError if "long" in name else SerializationError
                    assert type(error.cause) is cause
                    assert error.__cause__ is error.cause
                    assert f"rank {bad} ({ex.hosts[bad]})" in str(error)
                    assert "outgoing.py" in error.traceback
                    assert error.traceback in str(error.cause.__cause__)
                    again = cloudpickle.loads(cloudpickle.dumps(error))
                    assert (str(again), again.rank) == (str(error), bad)
                    assert type(again.__cause__) is cause
                else:
                    call()
                assert ex.allgather(rank) == list(range(size))
        # Nothing is sent to one rank.
        raises(SerializationError, lambda: ex.send(lock, right))
        raises(SerializationError, lambda: ex.isend(lock, right))
        ex.isend("the next", right)
        assert ex.recv(source=left) == "the next"
        assert left_behind(ex) == []


def interrupted_while_writing() -> None:
    """Ctrl-C on the root; the others hear of it, and all stay in step."""
    large = np.zeros(LARGE, "u1")
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        fill = HostRoom.fill

        def interrupted(*_: Any, **options: Any) -> None:
            if rank == last:
                raise KeyboardInterrupt

        if size > 1:
            HostRoom.fill = interrupted  # type: ignore[method-assign]
            kind = KeyboardInterrupt if rank == last else RemoteError
            error = raises(kind, partial(ex.bcast, large, root=last))
            assert rank == last or "interrupted" in str(error)
            HostRoom.fill = fill  # type: ignore[method-assign]
            assert (ex.bcast(large) == 0).all()
            assert ex.allgather(rank) == list(range(size))
        assert left_behind(ex) == []


def stopped_while_passing_on() -> None:
    """Ctrl-C, or no memory, on a host's first rank when a part has moved; all stay in step."""
    large = np.arange(LARGE // 8)
    fill = HostRoom.fill

    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for bad, error in itertools.product({0, size // 2}, (KeyboardInterrupt, MemoryError)):
            count = itertools.count()
            if rank == bad:
                HostRoom.fill = _failing(error, count)  # type: ignore[method-assign]
            if error is MemoryError:
                assert np.array_equal(ex.bcast(large), large)
            elif rank == bad:
                raises(KeyboardInterrupt, partial(ex.bcast, large))
            else:
                assert raises(RemoteError, partial(ex.bcast, large)).rank == bad
            HostRoom.fill = fill  # type: ignore[method-assign]
            assert next(count) == (3 if rank == bad else 0)
            assert np.array_equal(ex.bcast(large, 1), large)
        assert left_behind(ex) == []


def _failing(error: type[BaseException], count: Iterator[int]) -> Callable[..., None]:
    fill = HostRoom.fill

    def failing(*args: Any, **options: Any) -> None:
        if next(count) == 2:
            raise error
        fill(*args, **options)

    return failing


def interrupted_while_waiting() -> None:
    """A handler raises on the root while the others write what it gathers; all stay in step.

    It raises an `OSError`, which else says that there is no room.
    """
    fill = HostRoom.fill

    def slow(*args: Any, **options: Any) -> None:
        time.sleep(0.3)
        fill(*args, **options)

    def stop(*_: Any) -> None:
        raise TimeoutError

    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        for verb in (ex.gather, ex.allgather, ex.bcast):
            ex.barrier()
            if rank == 0:
                signal.signal(signal.SIGALRM, stop)
                signal.setitimer(signal.ITIMER_REAL, 0.1)
            else:
                HostRoom.fill = slow  # type: ignore[method-assign]
            obj = np.full(LARGE, rank, "u1")
            call = partial(verb, obj, root=last) if verb == ex.bcast else partial(verb, obj)
            if rank == 0 < last:
                raises(TimeoutError, call)
            else:  # between hosts they wait for its share in a step that follows
                with contextlib.suppress(*[RemoteError] if ranks_of_a_host else []):
                    call()
            signal.setitimer(signal.ITIMER_REAL, 0)
            HostRoom.fill = fill  # type: ignore[method-assign]
            got = ex.allgather(np.full(LARGE, rank + 5, "u1"))
            assert [int(each[-1]) for each in got] == list(range(5, size + 5))
        if size > 1 and not ranks_of_a_host:
            _interrupted_partners(ex, stop)
        assert left_behind(ex) == []


def interrupted_while_sending() -> None:
    """A handler raises on the root when it has begun to send; what it sends arrives unchanged."""
    armed = [False]
    lines = Path(packets.__file__).read_text().splitlines()
    begun = [n for n, line in enumerate(lines, 1) if "requests.extend(" in line]
    assert begun

    def stop(_: int, frame: Any) -> None:
        where = frame.f_code.co_filename
        if armed[0] and where == packets.__file__ and frame.f_lineno in begun:
            armed[0] = False
            raise OddError(1, 2)

    def call(verb: str, obj: Any) -> Any:
        return getattr(ex, verb)([obj] * size if verb == "scatter" and rank == 0 else obj)

    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        if rank == 0 < last:
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, 2e-4, 2e-4)
        for verb in ("bcast", "scatter") if size > 1 else ():
            interrupted = 0
            for n in range(600):
                obj = np.full(6 << 20, n % 200, "u1")
                armed[0] = rank == 0
                try:
                    got = call(verb, obj)
                except OddError:
                    interrupted += 1
                    got = obj.copy()
                    obj[:] = 255
                armed[0] = False
                assert (got == n % 200).all()
                if comm.bcast(interrupted) == 5:
                    break
            assert interrupted or rank
        signal.setitimer(signal.ITIMER_REAL, 0)


def _interrupted_partners(ex: Exchange, stop: Callable[..., None]) -> None:
    """The same while the last rank waits for what the root offers it."""
    make = HostRoom.make

    def slow(nbytes: int) -> HostRoom:
        time.sleep(0.3)
        return make(nbytes)

    ex.barrier()
    call = partial(ex.gather, np.full(LARGE, rank, "u1"))
    if rank == last:
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        raises(TimeoutError, call)
        signal.setitimer(signal.ITIMER_REAL, 0)
    else:
        HostRoom.make = slow  # type: ignore[method-assign]
        if rank == 0:
            assert "interrupted" in str(raises(RemoteError, call))
        else:
            call()
        HostRoom.make = make  # type: ignore[method-assign]
    got = ex.gather(np.full(LARGE, rank + 5, "u1"))
    assert [int(each[-1]) for each in got or ()] == ([] if rank else [*range(5, size + 5)])
    assert ex.scatter([np.full(LARGE, n, "u1") for n in range(size)])[-1] == rank


class OddError(Exception):
    """Survives pickling, but not unpickling."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Unpicklable:
    def __reduce__(self) -> Any:
        raise OddError(1, 2)


class SilentError(Exception):
    """Says nothing, whoever asks."""

    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __repr__

    def __len__(self) -> int:
        return 0


class Silent:
    def __init__(self, unpicklable: bool) -> None:
        self.error = SilentError(threading.Lock() if unpicklable else 1)

    def __iter__(self) -> Any:
        raise self.error


class LoadsNot:
    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise ZeroDivisionError("on loading")


def errors_of_all_kinds() -> None:
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        if size > 1:
            error = raises(
                SerializationError if rank == 0 else RemoteError,
                lambda: ex.bcast(Unpicklable() if rank == 0 else None),
            )
            assert "1 and 2" in str(error)
            # Errors that say nothing, and such that cannot travel.
            for unpicklable in (False, True):
                objs: Any = Silent(unpicklable) if rank == 0 else [1] * size
                raises(SilentError if rank == 0 else RemoteError, partial(ex.alltoall, objs))
                assert ex.allgather(rank) == list(range(size))
        # What cannot be loaded is the error of whoever loads it, the sender of a bcast among them.
        for nbytes in (0, LARGE):
            obj = [LoadsNot(), bytes(nbytes)] if rank == 0 else None
            raises(ZeroDivisionError, partial(ex.bcast, obj))
            for call in (ex.gather, ex.allgather):
                if call == ex.allgather or rank == 0:
                    raises(ZeroDivisionError, partial(call, obj))
                else:
                    call(obj)
        assert left_behind(ex) == []
        # The file of a message that somebody has removed; other clients may have it for a while.
        if not ex.connector.directory.policy.network:
            memory_file = os.memfd_create
            os.memfd_create = _refused  # so that it takes a file
            ex.isend(np.zeros(LARGE), right)
            os.memfd_create = memory_file
            comm.Barrier()
            if rank == 0:
                for found in Path(base / "store").glob("*/[0-9]*"):
                    found.unlink()
            comm.Barrier()
            raises(MissingObjectError, lambda: ex.recv(source=left))
        # The caller's own mistakes, at once, with nothing sent.
        for root in (-1, size):
            for verb in (ex.bcast, ex.gather, ex.scatter, ex.bcast_key, ex.gather_keys):
                assert f"ranks 0 to {last}" in str(raises(ArgumentError, partial(verb, None, root)))
        for dest in (-7, size):
            raises(ArgumentError, partial(ex.send, 1, dest))
            raises(ArgumentError, partial(ex.isend, 1, dest))
            raises(ArgumentError, partial(ex.send_key, None, dest))
        for nbytes in (1, 100_000, LARGE):
            raises(ArgumentError, partial(ex.send, bytes(nbytes), right, -5))
            raises(ArgumentError, partial(ex.isend, bytes(nbytes), right, -5))
        assert left_behind(ex) == []
        assert ex.allgather(rank) == list(range(size))


def _refused(name: str, flags: int = 0) -> int:
    raise OSError("too many open files")


def full_disk() -> None:
    """Launched so that all ranks share a tmpfs of 40 MB; one has too much for it."""
    with Exchange(comm, base / "small" / "store") as ex:
        large = np.full((60 << 20) if rank == last else 10, rank, "u1")
        expected = _collectives(ex, large)
        assert len(expected["assemble"]) == (60 << 20) + 10 * last
        with no_memory():  # nor has a tmpfs
            assert same(_collectives(ex, large), expected)
        # Room for an array of all ranks is reserved by root, before anything is written.
        error = raises(RemoteError if rank else StoreError, lambda: ex.put_blocks(large))
        assert "No space left" in str(error)
        assert not rank or type(error.cause) is StoreError
        assert left_behind(ex) == []


def full_memory() -> None:
    """A host that has no memory to share takes a file of the store, where that is on a disk."""
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        large = np.full(LARGE if rank == last else 10 + rank, rank, "u1")
        table = np.full((3000, 30), rank + 0.5)
        expected = _collectives(ex, large)
        across = ex.assemble(table, axis=1)  # of short runs
        puts: list[int] = []
        reserve = ex.connector.reserve

        def counted(head: bytes, nbytes: int) -> FileKey:
            puts.append(nbytes)
            return reserve(head, nbytes)

        ex.connector.reserve = counted  # type: ignore[method-assign]
        with no_memory():
            assert same(_collectives(ex, large), expected)
            assert left_behind(ex) == []
            assert same(ex.assemble(table, axis=1), across)
        assert sum(map(len, comm.allgather(puts))) >= 4 * (size > 1)
    with Exchange(comm, base / "store", inline_limit=0) as ex, no_memory():
        assert same(ex.assemble(table, axis=1), across)
        assert left_behind(ex) == []


def _collectives(ex: Exchange, mine: Any) -> dict[str, Any]:
    return {
        "bcast": ex.bcast(mine, root=last),
        "gather": ex.gather(mine),
        "allgather": ex.allgather([mine, "and more"]),
        "scatter": ex.scatter([mine] * size, root=last),
        "alltoall": ex.alltoall([mine] * size),
        "assemble": ex.assemble(mine),
    }


def short_of_address_space() -> None:
    """The last rank has none for what the others get; it alone raises, and all stay in step."""
    obj = np.ones(200 << 17) if rank == 0 else None
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        limits = resource.getrlimit(resource.RLIMIT_AS)
        if rank == last > 0:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
            resource.setrlimit(resource.RLIMIT_AS, (used + (30 << 20), limits[1]))
        if rank == last > 0:
            try:
                ex.bcast(obj)
            except MemoryError:
                pass
            else:
                raise AssertionError("there was memory")
        else:
            assert ex.bcast(obj).sum() == 200 << 17
        assert ex.allgather(rank) == list(range(size))
        resource.setrlimit(resource.RLIMIT_AS, limits)
        assert ex.bcast(obj).sum() == 200 << 17
        assert left_behind(ex) == []


def short_of_memory() -> None:
    """Launched in a control group of 600 MB: what does not fit goes through the disk."""
    with Exchange(comm, base / "store", inline_limit=LIMIT) as ex:
        large = np.full(300 << 20, 7, "u1") if rank == last else None
        assert (ex.bcast(large, root=last)[:: 1 << 12] == 7).all()
        got = ex.gather(large, root=0)
        assert got is None or (got[last][:: 1 << 12] == 7).all()
        assert left_behind(ex) == []


def use_after_close() -> None:
    ex = Exchange(comm, base / "store", inline_limit=LIMIT)
    ex.close()
    key = FileKey("x")
    for use in (
        partial(ex.bcast, 1),
        partial(ex.scatter, [1] * size),
        partial(ex.gather, 1),
        partial(ex.allgather, 1),
        partial(ex.alltoall, [1] * size),
        ex.barrier,
        partial(ex.send, 1, 0),
        ex.recv,
        partial(ex.isend, 1, 0),
        ex.irecv,
        partial(ex.sendrecv, 1, 0),
        partial(ex.assemble, [1]),
        partial(ex.put_blocks, [1]),
        partial(ex.bcast_key, key),
        partial(ex.scatter_keys, [key] * size),
        partial(ex.alltoall_keys, [key] * size),
        partial(ex.send_key, key, 0),
        ex.recv_key,
        partial(ex.put, 1),
        partial(ex.get, key),
    ):
        assert "was closed" in str(raises(StoreClosedError, use))
    wrongs: list[dict[str, Any]] = [
        {"inline_limit": -1},
        {"inline_limit": "many" if rank == last else 1},
        {"abort_timeout": -1.0 if rank == last else 1.0},
    ]
    for wrong in wrongs:
        assert "0 or more" in raised_everywhere(
            ValueError,
            partial(Exchange, comm, base / "store", **wrong),
        )


def objects_in_slots() -> None:
    """Arrays and bytes of some KiB, which ranks of a host read in each other's slabs."""

    def made(n: int) -> list[Any]:
        text = {"text": "é" * (5000 + n)}
        small = [np.full(8192, n, "f8"), bytes([n]) * 65_536, text, [np.full(1000, n), None]]
        large = [np.full(40_000, n), [np.full(150_000, n), "text", np.full(200_000, n, "f4")]]
        return [*small, *large, {"a": np.full(9 << 16, n), "b": bytes(1 << 20)}]

    def program(way: Any) -> list[Any]:
        results = []
        for obj, *others in zip(made(rank), *map(made, range(size)), strict=True):
            results += [way.bcast(obj, last), way.allgather(obj), way.gather(obj, last)]
            results += [way.scatter(others, last), way.alltoall(others)]
            mixed = obj if rank else None
            results += [way.allgather(mixed), way.alltoall([*others[1:], rank])]
            results.append(way.allgather(np.full(9000 * rank, rank)))
        return results

    with Exchange(comm, base / "store") as ex:
        placed = _placed_by(ex)
        wanted = program(comm)
        assert same(program(ex), wanted)
        assert bool(placed) == (1 < size <= limits.FEW and ex._bodies._slab is not None)
        obj = np.full(8192, rank, "f8")
        results = [ex.bcast(obj), *ex.allgather(obj), *ex.alltoall([obj] * size)]
        for n, array in enumerate(results):
            assert array.flags.writeable
            array[:] = n
        assert [array[0] for array in results] == [*range(len(results))]
        assert (obj == rank).all()
        plain = comm.Split(rank % 2, -rank)
        with ex.Split(rank % 2, -rank) as half:
            assert same(program_of(half), program_of(plain))
        plain.Free()
        # Another communicator over the same slabs, one call of each in turn.
        with ex.Dup() as other:
            for n in range(20):
                for root in range(size):
                    results = [ex.bcast(obj + n, root), other.bcast(obj - n, root)]
                    assert [array[7] for array in results] == [root + n, root - n]
            assert same(program(other), wanted)
        if rank == 0:  # runs ahead
            for n in range(50):
                assert ex.bcast(np.full(5000, n, "f8"))[0] == n
        else:
            time.sleep(0.05)
            assert [ex.bcast(None)[0] for _ in range(50)] == [*range(50)]
        all_slots_are_free(ex)


def _placed_by(ex: Exchange) -> list[int]:
    """Return how many readers has what an Exchange puts into its slab from now on."""
    placed: list[int] = []
    share = ex._bodies.share

    def counted(each: Any, body: Any, buffers: Any, readers: int, most: int) -> bool:
        is_placed = share(each, body, buffers, readers, most)
        placed.extend([readers] * is_placed)
        return is_placed

    vars(ex._bodies)["share"] = counted
    return placed


def all_slots_are_free(ex: Exchange) -> None:
    """All ranks have received what was sent to them."""
    ex.barrier()
    slab = ex._bodies._slab
    assert slab is None or not any([*slab.slots, *slab.records])


def program_of(way: Any) -> list[Any]:
    """Use verbs with objects of a slot; `way` is an Exchange or a communicator."""
    obj = np.full(7000, way.rank)
    return [way.bcast(obj, way.size - 1), way.allgather(obj), way.alltoall([obj] * way.size)]


def slabs_without_descriptors() -> None:
    """One rank has no descriptors left, once the Exchange is made, or before."""
    mine = np.full(30_000 if rank == 0 else 100_000, rank, "u1")
    wanted = [(n, 100_000 if n else 30_000) for n in range(size)]

    def use(ex: Exchange) -> None:
        for _ in range(2):
            for got in (ex.allgather(mine), ex.alltoall([mine] * size), ex.gather(mine, last)):
                assert got is None or [(each[0], len(each)) for each in got] == wanted
            for obj in (ex.bcast(mine), ex.scatter([mine] * size)):
                assert (obj[0], len(obj)) == (0, 30_000)
        comm.Barrier()

    with Exchange(comm, base / "store") as ex:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        if rank == last:
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            raises(OSError, lambda: os.dup(0))
        use(ex)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    comm.Barrier()
    names = vars(bodies)
    slab = names["Slab"]
    if rank == last:
        names["Slab"] = _refuses
    with Exchange(comm, base / "store") as ex:
        names["Slab"] = slab
        assert ex._collectives._outbox._bodies is None
        use(ex)


def _refuses(*_: Any) -> None:
    raise OSError("too many open files")


def failures_beside_slots() -> None:
    """An object that cannot be sent, or loaded, beside those in slots."""
    array = np.full(8192, rank, "f8")
    with Exchange(comm, base / "store") as ex:
        for _ in range(100):
            raised_everywhere(
                ZeroDivisionError, partial(ex.allgather, array if rank else LoadsNot())
            )
            assert [each[0] for each in ex.allgather(array)] == [*range(size)]
            kind = RemoteError if rank else SerializationError
            bad: Any = array if rank else threading.Lock()
            raises(kind, partial(ex.allgather, bad))
            kind = RemoteError if rank else SerializationError
            raises(kind, partial(ex.alltoall, [array] * last + [bad]))
            raises(kind, partial(ex.scatter, [array] * last + [bad]))
            if rank == 0:
                raises(ZeroDivisionError, partial(ex.scatter, [LoadsNot(), *[array] * last]))
            else:
                assert ex.scatter(None)[0] == 0
            assert ex.bcast(array)[0] == 0
        all_slots_are_free(ex)


class LoadsWith:
    """Raises an error that names its sender where it is loaded."""

    def __init__(self, kind: type[Exception], nbytes: int) -> None:
        self.kind, self.sender, self.data = kind, rank, bytes(nbytes)

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise state["kind"](f"of rank {state['sender']}")


def some_cannot_be_loaded() -> None:
    """The error is that of the lowest such rank, as with mpi4py, and all others are received."""

    def outcome(verb: Callable[[], Any]) -> Any:
        try:
            return [type(each) for each in verb() or ()]
        except Exception as error:
            return type(error), error.args

    array = np.full(8192, rank, "f8")
    with Exchange(comm, base / "store") as ex:
        for kind in (ValueError, StopIteration):
            for nbytes, bad in itertools.product((10, 30_000), ([0], [last], [0, last])):
                obj: Any = LoadsWith(kind, nbytes) if rank in bad else array
                for wanted, verb in (
                    (comm.gather, ex.gather),
                    (comm.allgather, ex.allgather),
                ):
                    assert outcome(partial(verb, obj)) == outcome(partial(wanted, obj))
                for way in (comm, ex):
                    raised = outcome(partial(way.alltoall, [obj] * size))
                    assert raised == (kind, (f"of rank {bad[0]}",))
                raised = outcome(partial(ex.allreduce, obj, op=lambda one, _: one))
                assert raised == (kind, (f"of rank {bad[0]}",))
        all_slots_are_free(ex)


def _slab_verbs(ex: Exchange, nbytes: int, root: int) -> dict[str, partial[Any]]:
    """Return calls with arrays of so many bytes; the root is that of the verbs that send to all."""
    array = np.full(nbytes // 8, rank, "f8")
    return {
        "bcast": partial(ex.bcast, array, root),
        "scatter": partial(ex.scatter, [array] * size, root),
        "gather": partial(ex.gather, array, last - root),
        "allgather": partial(ex.allgather, array),
        "alltoall": partial(ex.alltoall, [array] * size),
    }


def interrupted_while_it_waits() -> None:
    """By a signal's handler that raises: it does its part first, so nobody waits for the rest."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    # By the slab, by messages, without and with rooms, MPI's reductions.
    for limit, nbytes in itertools.product((limits.INLINE_LIMIT, 0), (1 << 16, 6 << 20)):
        with Exchange(comm, base / f"{limit}-{nbytes}", inline_limit=limit) as ex:
            calls = _slab_verbs(ex, nbytes, 0) | _long_verbs(ex, nbytes)
            for (name, call), who in itertools.product(calls.items(), {last, size // 2}):
                if size == 1:
                    continue
                wanted = _wanted(name, call.args)
                print(limit, nbytes, name, who, flush=True)
                comm.Barrier()
                if rank == who:
                    signal.setitimer(signal.ITIMER_REAL, 0.05)
                    raises(KeyboardInterrupt, partial(_then_sleep, call))
                else:
                    time.sleep(0.1)
                    try:
                        assert same(call(), wanted)
                    except RemoteError as error:  # its root, whose room the other was to fill
                        assert (error.rank, rank, limit) == (who, last, 0)
                        assert name in ("gather", "reduce")
                all_slots_are_free(ex)
            assert ex.allgather(rank) == [*range(size)]


def _then_sleep(call: Callable[[], object]) -> None:
    """Call a verb; if it does not wait for the others, the handler raises after it."""
    call()
    time.sleep(5)


def _long_verbs(ex: Exchange, nbytes: int) -> dict[str, partial[Any]]:
    """Return calls of verbs that take several steps."""
    array = np.arange(nbytes // 8, dtype="f8") + rank
    return {
        "reduce": partial(ex.reduce, array, MPI.SUM, last),
        "allreduce": partial(ex.allreduce, array, MPI.SUM),
        "assemble": partial(ex.assemble, array),
        "put_blocks": partial(lambda block: ex.get(ex.put_blocks(block)), array),
    }


def _wanted(verb: str, args: Sequence[Any]) -> Any:
    """Return what a verb of an Exchange returns, by mpi4py."""
    if verb in ("assemble", "put_blocks"):
        return np.concatenate(comm.allgather(args[0]))
    return getattr(comm, verb)(*args)


def interrupted_once_packets_are_out() -> None:
    """At any place from there on: the others have what they should, or hear of it."""
    done = [False]

    def raising(nth: int) -> Callable[..., None]:
        seen = itertools.count()
        is_out = [False]

        def profile(frame: Any, event: str, _: Any) -> None:
            code = frame.f_code
            if event == "return" and code.co_filename == carriers.__file__:
                is_out[0] |= code.co_name[0] not in "_<"
            if is_out[0] and event in ("call", "return", "c_return") and next(seen) == nth:
                sys.setprofile(None)
                raise KeyboardInterrupt

        return profile

    with Exchange(comm, base / "store", inline_limit=1 << 30) as ex:
        calls = _slab_verbs(ex, 6 << 20, 0)
        for (verb, call), who in itertools.product(calls.items(), {0, last} if size > 1 else ()):
            wanted = getattr(comm, verb)(*call.args)
            for nth in itertools.count():
                done[0] = False
                try:
                    sys.setprofile(raising(nth) if rank == who else None)
                    got = call()
                    done[0] = True
                    sys.setprofile(None)
                    assert same(got, wanted)
                except KeyboardInterrupt:
                    assert rank == who
                except RemoteError as error:
                    assert error.rank == who
                if comm.bcast(done[0], who):
                    assert nth > 3
                    break
            all_slots_are_free(ex)


def interrupted_between_loads() -> None:
    """Beside a message, next to which packets are copied: what was not loaded is given up, once."""
    with Exchange(comm, base / "store") as ex:
        one = ex._collectives._one

        def interrupted(message: Any, rank: int, *sent: Any) -> Any:
            one(message, rank, *sent)
            raise KeyboardInterrupt

        for _ in range(3 if size > 1 else 0):
            array = np.full((6 << 20) if rank == last else (1 << 20), rank, "u1")
            if rank == last:
                vars(ex._collectives)["_one"] = interrupted
                raises(KeyboardInterrupt, partial(ex.allgather, array))
                del vars(ex._collectives)["_one"]
            else:
                assert [each[-1] for each in ex.allgather(array)] == [*range(size)]
            all_slots_are_free(ex)


def interrupted_before_it_fills_slots() -> None:
    """By a handler that raises as a function starts: all bodies come, or their readers hear."""
    names = {outgoing.__file__: "finish", bodies.__file__: "<lambda>", slab.__file__: "fill"}

    def raising(nth: int) -> Callable[..., None]:
        entered = itertools.count()

        def profile(frame: Any, event: str, _: Any) -> None:
            code = frame.f_code
            begins = event == "call" and names.get(code.co_filename) == code.co_name
            if begins and next(entered) == nth:
                sys.setprofile(None)
                raise KeyboardInterrupt

        return profile

    with Exchange(comm, base / "store") as ex:
        calls = _slab_verbs(ex, 5 << 18, last)
        for verb, nth in itertools.product(calls if size > 1 else (), range(3 * size)):
            sys.setprofile(raising(nth) if rank == last else None)
            try:
                calls[verb]()
                assert rank != last or nth > 0 or ex._bodies._slab is None
            except KeyboardInterrupt:
                assert rank == last
            except RemoteError as error:
                assert error.rank == last
            finally:
                sys.setprofile(None)
            all_slots_are_free(ex)


def interrupted_while_filling_slots() -> None:
    """Those who wait for the rest hear of it, the others do not, and no slot stays taken."""
    with Exchange(comm, base / "store") as ex:
        if ex._bodies._slab is None or not 1 < size <= 4:
            return
        fill = slab._native.fill
        copied = itertools.count()

        def interrupted(*args: Any) -> Any:
            if next(copied) == 1:
                raise KeyboardInterrupt
            return fill(*args)

        for verb, call in _slab_verbs(ex, 5 << 18, last).items():
            copied = itertools.count()
            if rank == last:
                slab._native.fill = interrupted
                raises(KeyboardInterrupt, call)
                slab._native.fill = fill
            elif rank == 0 or verb in ("bcast", "allgather"):
                assert raises(RemoteError, call).rank == last
            else:
                call()
            all_slots_are_free(ex)
            assert same(call(), getattr(comm, verb)(*call.args))


if __name__ == "__main__":
    run(globals())
