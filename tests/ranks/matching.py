"""Programs of sends and receives that MPI promises to end: `matching.py NAME DIRECTORY`.

tests/test_matching.py launches them, with a time limit, in each way that bodies can travel.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from fsexchange import FileConnector, RemoteError, SerializationError, StoreClosedError
from fsexchange.mpi import Exchange, Request, bodies, limits, slab
from fsexchange.mpi.membership import ArgumentError
from fsexchange.mpi.slab import Slab

from .common import base, comm, left_behind, no_memory, raises, rank, run, same, size

right, left = (rank + 1) % size, (rank - 1) % size
other = rank ^ 1  # of a pair

if os.environ.get("FSEXCHANGE_TEST_WAY") == "hosts":
    slab.this_host = lambda: (rank,)
if os.environ.get("FSEXCHANGE_TEST_WAY") == "crowd":
    limits.CROWD = -1

SIZES = [10, 1_000, 3_000, 4_000, 5_000, 6_000, 6_900, 8_000, 70_000, 1 << 20, 7 << 20, 9 << 20]


def exchange(**options: Any) -> Exchange:
    return Exchange(comm, base / "store", **options)


def objects(n: int, sizes: Sequence[int] = tuple(SIZES)) -> Iterator[Any]:
    """Yield objects of every size, each in one piece and in several."""
    for nbytes in sizes:
        array = np.full(nbytes, n, "u1")
        yield array
        yield {"bytes": bytes([n]) * nbytes, "array": array, "text": "é" * n}


# ---- programs that have hung --------------------------------------------------------------------


def wait_for_send_first() -> None:
    """Requests in every order, to the neighbour and to oneself."""
    with exchange() as ex:
        for obj in objects(rank):
            for to, source in ((right, left), (rank, rank)):
                sent, received = ex.isend(obj, to), ex.irecv(source=source)
                assert Request.waitall([sent, received])[0] is None
                sent, received = ex.isend(obj, to), ex.irecv(source=source)
                sent.wait()
                same_as(received.wait(), source, obj)
                received, sent = ex.irecv(source=source), ex.isend(obj, to)
                while not sent.test()[0]:
                    pass
                same_as(received.wait(), source, obj)
                received = ex.irecv(source=source, tag=1)
                sent = ex.isend(obj, to, 1)
                same_as(ex.sendrecv(obj, to, 2, None, source, 2), source, obj)
                same_as(received.wait(), source, obj)
                sent.wait()
        assert left_behind(ex) == []


def same_as(result: Any, source: int, mine: Any) -> None:
    """Prove that a result is what another rank has where this one has `mine`."""
    if isinstance(mine, dict):
        assert result["text"] == "é" * source
        assert result["bytes"] == bytes([source]) * len(mine["bytes"])
        result, mine = result["array"], mine["array"]
    assert same(result, np.full(len(mine), source, "u1"))
    result[:1] = 7  # its own


def collectives_in_between() -> None:
    """What was sent is delivered while both ranks are elsewhere."""
    with exchange() as ex:
        for obj in objects(rank):
            if rank % 2 == 0 and other < size:
                ex.isend(obj, other).wait()
                ex.barrier()
                ex.isend(obj, other, 1).wait()
                ex.send(obj, other, 2)
                ex.sendrecv(obj, other, 3, None, other, 3)
                ex.bcast(obj, 0)
            elif rank % 2:
                received = ex.irecv(source=other)
                ex.barrier()
                same_as(received.wait(), other, obj)
                received = ex.irecv(source=other, tag=1)
                same_as(ex.recv(source=other, tag=2), other, obj)
                same_as(received.wait(), other, obj)
                received = ex.irecv(source=other, tag=3)
                ex.send(obj, other, 3)
                ex.bcast(None, 0)
                same_as(received.wait(), other, obj)
            else:
                ex.barrier()
                ex.bcast(obj, 0)
        assert left_behind(ex) == []


def halo() -> None:
    """Receives posted, sends, waits: on a ring, in both directions."""
    with exchange() as ex:
        for obj in objects(rank):
            requests = [ex.irecv(source=left, tag=1), ex.irecv(source=right, tag=2)]
            ex.send(obj, right, 1)
            ex.send(obj, left, 2)
            statuses = [MPI.Status(), MPI.Status()]
            first, second = Request.waitall(requests, statuses)
            same_as(first, left, obj)
            same_as(second, right, obj)
            assert [(each.source, each.tag) for each in statuses] == [(left, 1), (right, 2)]
        assert left_behind(ex) == []


def what_was_sent_may_change_at_once() -> None:
    with exchange() as ex:
        for nbytes in SIZES:
            for verb in (ex.isend, ex.issend, ex.send):
                array = np.full(nbytes, rank, "u1")
                several: Any = [bytearray(array), array, np.asfortranarray(array.reshape(-1, 1))]
                for obj in (array, several):
                    received = ex.irecv(source=left)
                    verb(obj, right)
                    array[:] = 255
                    several[0][:] = bytes(nbytes)
                    got = received.wait()
                    for part in got if obj is several else [got]:
                        assert bytes(part) == bytes([left]) * nbytes
                    array[:] = rank
                    several[0][:] = array.tobytes()
        assert left_behind(ex) == []


def all_send_first() -> None:
    """Objects that look short, and others that only begin like them."""
    smile = "\N{GRINNING FACE}"
    items = [None, 7, -(1 << 63), 1 << 99_999, 1e300j, smile * 100, smile * 101, smile * 5_000]
    with exchange() as ex:
        sent = [*items, *([item] * 8 for item in items), *((item,) * 9 for item in items), items]
        for obj in sent:
            ex.send(obj, right)
        assert [ex.recv(source=left) for _ in sent] == sent
        assert left_behind(ex) == []


# ---- order --------------------------------------------------------------------------------------


def in_the_order_they_were_sent() -> None:
    with exchange() as ex:
        for trial in range(50):
            sizes = np.random.default_rng(trial).choice([1, 5_000, 100_000, 300_000], 5).tolist()
            if rank == 0:
                requests = [ex.irecv() for _ in range(5 * (size - 1))]
                seen: dict[int, list[int]] = {n: [] for n in range(1, size)}
                for request in requests:
                    source, n, data = request.wait()
                    assert len(data) == sizes[n]
                    seen[source].append(n)
                assert all(each == [0, 1, 2, 3, 4] for each in seen.values()), seen
            else:
                for n, nbytes in enumerate(sizes):
                    ex.send((rank, n, np.ones(nbytes, "u1")), 0)
            ex.barrier()
        assert left_behind(ex) == []


def first_posted_is_first_served() -> None:
    """A later receive takes no message from an earlier one that it fits."""
    with exchange() as ex:
        for nbytes in SIZES:
            data = bytes(nbytes)
            if rank == 0:
                for n in range(1, size):
                    earlier = ex.irecv(source=n)
                    comm.send(None, n)
                    assert ex.recv(source=n) == ("second", data)
                    assert earlier.wait() == ("first", data)
                    tagged = ex.irecv(tag=1)
                    comm.send(None, n)
                    assert ex.recv(source=n) == ("another", data)
                    assert tagged.wait() == ("tagged", data)
            else:
                comm.recv(source=0)
                ex.send(("first", data), 0)
                ex.send(("second", data), 0)
                comm.recv(source=0)
                ex.send(("tagged", data), 0, 1)
                ex.send(("another", data), 0, 2)
        assert left_behind(ex) == []


# ---- verbs --------------------------------------------------------------------------------------


def every_way_to_send_and_receive() -> None:
    MPI.Attach_buffer(bytearray(1 << 16))
    with exchange() as ex:
        for obj in (*objects(rank, [10, 4_000, 8_000, 300_000]), np.full(9 << 20, rank, "u1")):
            for name in ("isend", "ibsend", "issend"):
                for receive in receivers(ex):
                    sent = getattr(ex, name)(obj, right, 5)
                    assert sent
                    status = MPI.Status()
                    same_as(receive(status), left, obj)
                    assert (status.source, status.tag) == (left, 5)
                    assert sent.wait() is None
                    assert not sent
            for name in ("send", "bsend", "ssend"):
                received = ex.irecv(source=left, tag=5)
                assert received
                assert not received.test()[0]
                comm.Barrier()
                getattr(ex, name)(obj, right, 5)
                same_as(received.wait(), left, obj)
                assert not received
        assert left_behind(ex) == []
    MPI.Detach_buffer()


def receivers(ex: Exchange) -> list[Callable[[MPI.Status], Any]]:
    """Return the ways to receive a message of tag 5 from the left, each with a status."""

    def probed(status: MPI.Status) -> Any:
        ex.Probe(left, 5, status)
        assert ex.Iprobe(left, 5)
        assert ex.iprobe(left, 5)
        assert ex.probe(left, 5)
        return ex.recv(source=status.source, tag=status.tag)

    def matched(status: MPI.Status) -> Any:
        while True:
            message = ex.improbe(left, 5, status)
            if message is not None:
                return message.recv()

    def some(status: MPI.Status) -> Any:
        requests, statuses = [ex.irecv(source=left, tag=5), ex.irecv(None, left, 99)], [status]
        indices, objs = Request.waitsome(requests, statuses)
        assert indices == [0]
        status.source, status.tag = statuses[0].source, statuses[0].tag
        requests[1].cancel()
        requests[1].wait()
        assert objs is not None
        return objs[0]

    def tested(status: MPI.Status) -> Any:
        requests = [ex.irecv(source=left, tag=5)]
        done, objs = False, None
        while not done:
            done, objs = Request.testall(requests)
        status.source, status.tag = left, 5
        assert objs is not None
        return objs[0]

    return [
        lambda status: ex.recv(None, left, 5, status),
        lambda status: ex.recv(status=status),
        lambda status: ex.irecv(None, left, 5).wait(status),
        lambda status: Request.waitany([ex.irecv(None, left, 5)], status)[1],
        lambda status: ex.mprobe(left, 5, status).recv(),
        lambda status: ex.mprobe(left, 5, status).irecv().wait(),
        probed,
        matched,
        some,
        tested,
    ]


def synchronous_send_waits() -> None:
    """`ssend` returns once its message is matched, `send` long before."""
    with exchange() as ex:
        for nbytes in (10, 100_000):
            comm.Barrier()
            if rank == 0 != size - 1:
                ex.send(bytes(nbytes), 1)
                start = time.monotonic()
                ex.ssend(bytes(nbytes), 1)
                assert time.monotonic() - start > 0.1
            if rank == 1:
                assert len(ex.recv(source=0)) == nbytes
                time.sleep(0.3)
                assert len(ex.recv(source=0)) == nbytes


def counts_of_objects() -> None:
    """`Get_count` after a receive is about the length of the object, as mpi4py's is."""
    with exchange() as ex:
        for nbytes in SIZES:
            status = MPI.Status()
            ex.sendrecv(np.ones(nbytes, "u1"), right, 0, None, left, 0, status)
            assert nbytes <= status.Get_count() < nbytes + 300, (nbytes, status.Get_count())


def communicators_of_an_exchange() -> None:
    """They have the verbs, messages of their own, and the directory of the first."""
    with exchange() as ex:
        assert isinstance(ex, MPI.Intracomm)
        assert isinstance(ex, Exchange)
        half = ex.Split(rank % 2, -rank)
        group = ex.Get_group().Incl(range(0, size, 2))
        part = ex.Create_group(group) if rank % 2 == 0 else MPI.COMM_NULL
        for way in (ex.Dup(), ex.Clone(), half, half.Dup(), ex.Create(group), part):
            if not way:
                continue
            assert isinstance(way, Exchange)
            assert way.store is not None
            after, before = (way.rank + 1) % way.size, (way.rank - 1) % way.size
            world = way.group.Translate_ranks([before], comm.group)[0]
            for obj in objects(rank, [10, 8_000, 70_000, 9 << 20]):
                received = way.irecv()
                ex.isend("not for it", rank, 9)
                way.send(obj, after)
                same_as(received.wait(), world, obj)
                assert ex.recv(source=rank, tag=9) == "not for it"
            assert way.allgather(way.rank) == list(range(way.size))
            key = way.bcast(way.put("kept") if way.rank == 0 else None)
            assert ex.get(key) == "kept"
            raises(ArgumentError, partial(way.send, 1, way.size))
            way.send(np.ones(100_000), after)  # and never received
            way.Free()
            assert not way
            raises(StoreClosedError, partial(way.send, 1, 0))
        assert ex.Split(MPI.UNDEFINED) == MPI.COMM_NULL
        kept, ended = ex.Dup(), ex.Dup()
        ended.Disconnect()
        raises(StoreClosedError, partial(ended.send, 1, 0))
    raises(StoreClosedError, lambda: kept.send(np.ones(100_000), 0))
    for obj in (1, {1}, np.ones(100_000)):
        raises(StoreClosedError, partial(ended.send, obj, MPI.PROC_NULL))
    Exchange(comm, base / "store").Disconnect()
    comm.Barrier()
    assert not (base / "store").exists()


# ---- errors, leftovers, limits ------------------------------------------------------------------


def send_that_fails_has_sent_nothing() -> None:
    lock = threading.Lock()
    with exchange() as ex:
        for nbytes in SIZES:
            for verb in (ex.send, ex.isend, ex.ssend, ex.issend):
                wrong: Any = verb
                raises(SerializationError, partial(wrong, [lock, bytes(nbytes)], right))
                for argument in ((size, 0), (-77, 0), (right, -5)):
                    array = np.ones(nbytes, "u1")
                    error = raises(ArgumentError, partial(wrong, array, *argument))
                    assert isinstance(error, ValueError)
                    assert isinstance(error, MPI.Exception)
                    code = MPI.ERR_TAG if argument == (right, -5) else MPI.ERR_RANK
                    assert error.Get_error_class() == code
            raises(SerializationError, lambda: ex.sendrecv(lock, right, 0, None, left))
        receiving: list[Any] = [ex.recv, ex.irecv]
        for receive in receiving:
            error = raises(ArgumentError, partial(receive, source=size))
            assert error.Get_error_class() == MPI.ERR_RANK
        comm.Barrier()
        assert not ex.Iprobe()
        comm.Barrier()
        ex.send("the next", right)
        assert ex.recv() == "the next"
        assert left_behind(ex) == []


def interrupted_while_copying() -> None:
    """Ctrl-C in the midst of a body: its receiver hears of it, and the next message is whole."""
    with exchange() as ex:
        if os.environ.get("FSEXCHANGE_TEST_WAY") == "hosts" or ex._bodies._slab is None:
            return
        fill: Any = Slab.fill

        def stopped(
            slab: Slab, record: int, buffers: Any, starts: Any, spill: Any, begun: Any
        ) -> None:
            def interrupted(start: int, sent: Any) -> bytes:
                raise KeyboardInterrupt

            others: list[int] = []
            for _ in range(20):
                bodies._native.take_slot(slab.memory, others, 1)
            try:
                fill(slab, record, buffers, starts, interrupted, begun)
            finally:
                slab.free_slots(others)

        Slab.fill = stopped  # type: ignore[method-assign,assignment]
        raises(KeyboardInterrupt, lambda: ex.isend(np.ones(1 << 20), right))
        Slab.fill = fill  # type: ignore[method-assign]
        comm.Barrier()  # a receiver would make room
        error = raises(RemoteError, lambda: ex.recv(source=left))
        assert error.rank == left
        for _ in range(100):
            ex.isend(np.full(1 << 17, rank, "u1"), right)
            assert (ex.recv(source=left) == left).all()


def handler_that_raises() -> None:
    """A signal's handler raises at any place of a send: what arrives is whole, once, in order."""
    if rank % 2 == 0 and other < size:
        signal.signal(signal.SIGALRM, _give_up)
    for nbytes in (10_000, 300_000, 20_000_000):
        with exchange() as ex:
            if other >= size:
                continue
            if rank % 2 == 0:
                done = _interrupted_sends(ex, nbytes // 4)
                ex.send("the end", other)
                ex.send(done, other)
                ex.recv(source=other)
                assert _taken(ex) == 0
                continue
            arrived: list[int] = []
            while True:
                try:
                    array = ex.recv(source=other)
                except RemoteError:
                    continue
                if isinstance(array, str):
                    break
                assert (array == array[0]).all()
                arrived.append(int(array[0]))
            assert arrived == sorted(set(arrived))
            assert set(ex.recv(source=other)) <= set(arrived)
            ex.send(None, other)


def _taken(ex: Exchange) -> int:
    """Return how many slots and records of this rank's slab are taken, or lent, or lost."""
    own, lender = ex._bodies._slab, ex._bodies._lent
    if own is None or lender is None:
        return 0
    lender.look()
    return sum(own.slots) + sum(own.records) + slab.LOANS - len(lender._free)


def alarm_while_it_waits() -> None:
    """A signal's handler raises as the message arrives: that is lost, but not the place it had."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    with exchange() as ex:
        for nbytes in (10_000, 300_000, 40_000_000):
            for n in range(8):
                if rank % 2 == 0 and other < size:
                    comm.recv(source=other)
                    time.sleep(0.02)
                    ex.send(np.full(nbytes, n, "u1"), other)
                    comm.send(None, other)
                elif other < size:
                    request = None if n % 2 else ex.irecv()
                    receive = ex.recv if request is None else request.wait
                    raises(KeyboardInterrupt, partial(_alarmed, receive))
                    comm.recv(source=other)
                    # The handler may have run before the receive, if this rank had no core.
                    if request:
                        request.wait()
                    elif ex.iprobe():
                        ex.recv()
            comm.Barrier()
            assert _taken(ex) == 0
        if other < size:
            assert ex.sendrecv(rank, other, source=other) == other


def _alarmed(receive: Callable[[], Any]) -> None:
    """Receive what is sent later than an alarm comes."""
    signal.setitimer(signal.ITIMER_REAL, 0.005)
    comm.send(None, other)
    receive()


def handler_that_raises_in_a_receive() -> None:
    """At any place of it: no place in the sender's memory is lost."""
    with exchange() as ex:
        for nbytes in (10_000, 300_000, 20_000_000):
            if rank % 2 == 0 and other < size:
                for n in range(1 + 10_000_000 // nbytes):
                    ex.send(np.full(nbytes, n % 256, "u1"), other, 1)
                ex.send("the end", other, 2)
                ex.recv(source=other)
                assert _taken(ex) == 0
            elif other < size:
                _interrupted_receives(ex)
                ex.send(None, other)


def _interrupted_receives(ex: Exchange) -> None:
    """Receive what comes under tag 1, until there is nothing more."""
    signal.signal(signal.SIGALRM, _give_up)
    choose = random.Random(rank)
    while ex.Iprobe(other, 1) or not ex.Iprobe(other, 2) or ex.Iprobe(other, 1):
        if not ex.Iprobe(other, 1):
            continue
        with contextlib.suppress(*_RAISED):
            signal.setitimer(signal.ITIMER_REAL, choose.uniform(1e-6, 2e-4))
            array = ex.recv(source=other, tag=1)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert (array == array[0]).all()
    ex.recv(source=other, tag=2)


def _interrupted_sends(ex: Exchange, elements: int) -> list[int]:
    """Send arrays that are numbered for a while, and return those whose send did not raise."""
    done = []
    end = time.monotonic() + 1
    number = interrupted = 0
    while time.monotonic() < end or not interrupted:
        with contextlib.suppress(*_RAISED):
            interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + number % 97 * 4e-6)
            for _ in range(5):
                number += 1
                ex.send(np.full(elements, number, "i4"), other)
                done.append(number)
            interrupted -= 1
            signal.setitimer(signal.ITIMER_REAL, 0)
    return done


def handler_that_sends() -> None:
    """A signal's handler sends at any place of a send, also while that takes a slot."""
    if os.environ.get("FSEXCHANGE_TEST_WAY") == "crowd":  # then a send waits for its receiver
        return
    for nbytes in (10_000, 300_000):
        with exchange() as ex:
            if other >= size:
                continue
            if rank % 2 == 0:
                counted = itertools.count(1)  # a handler may run in another

                def send(*_: object, counted: Iterator[int] = counted, ex: Exchange = ex) -> None:
                    ex.send(np.full(2_500, -next(counted), "i4"), other)

                signal.signal(signal.SIGALRM, send)
                end = time.monotonic() + 0.5
                number = 0
                while time.monotonic() < end:
                    number += 1
                    signal.setitimer(signal.ITIMER_REAL, 1e-5 + number % 97 * 4e-6)
                    ex.send(np.full(nbytes // 4, number, "i4"), other)
                signal.setitimer(signal.ITIMER_REAL, 0)
                ex.send((number, next(counted)), other)
                ex.recv(source=other)
                assert _taken(ex) == 0
                continue
            numbers: list[int] = []
            while not isinstance(array := ex.recv(source=other), tuple):
                assert (array == array[0]).all()
                numbers.append(int(array[0]))
            number, count = array
            assert sorted(numbers) == [*range(1 - count, 0), *range(1, number + 1)]
            assert count > 1
            ex.send(None, other)


# MPI refuses by the second, too, and the third else says that there is no memory.
_RAISED = KeyboardInterrupt, TypeError, TimeoutError
_errors = itertools.cycle(_RAISED)


def _give_up(*_: object) -> None:
    raise next(_errors)


def nothing_is_left_in_a_kept_store() -> None:
    """Of messages that nobody receives, and of receives that nobody waits for."""
    with exchange(clear=False) as ex:
        for nbytes in SIZES:
            ex.isend(np.ones(nbytes, "u1"), right, 1)
            ex.isend([np.ones(nbytes, "u1"), bytes(nbytes)], right, 2)
        ex.irecv(tag=1)
        ex.irecv(source=left, tag=1)
        ex.irecv(source=left, tag=7)
        comm.Barrier()
    assert not list(Path(base / "store").glob("*/[0-9]*"))
    with exchange() as ex:
        comm.Barrier()
        assert not ex.Iprobe()


def fast_producer() -> None:
    """What waits for a slow receiver is bounded, and all of it arrives."""
    limits.CROWD = 32 << 20
    with exchange() as ex:
        if rank:
            for n in range(100 // size):
                ex.send(np.full(10 << 20, n % 256, "u1"), 0)
                assert ex._bodies._waiting() < 60 << 20
        else:
            for n in range(100 // size):
                time.sleep(0.01)
                for source in range(1, size):
                    array = ex.recv(source=source)
                    assert array[0] == array[-1] == n % 256
                    del array
        assert left_behind(ex) == []


def crowd_that_has_ended() -> None:
    """No send waits for its receiver when all that was sent has been received."""
    limits.CROWD = 32 << 20
    for nbytes in (1 << 20, 9 << 20):
        obj = np.full(nbytes, rank, "u1")
        with exchange() as ex:
            requests = [ex.isend(obj, right) for _ in range(80)]
            for _ in requests:
                ex.recv(source=left)
            Request.waitall(requests)
            comm.Barrier()
            ex.send(obj, right)
            assert same(ex.recv(source=left), np.full(nbytes, left, "u1"))


def more_than_a_slab_holds() -> None:
    """Thousands of messages of all sizes wait, and arrive in order."""
    with exchange() as ex:
        sizes = np.random.default_rng(1).choice([10, 5_000, 70_000, 200_000], 600).tolist()
        for n, nbytes in enumerate(sizes):
            ex.isend((n, np.full(nbytes, n % 256, "u1")), right)
        for n, nbytes in enumerate(sizes):
            number, array = ex.recv(source=left)
            assert number == n
            assert same(array, np.full(nbytes, n % 256, "u1"))
        assert left_behind(ex) == []


def who_is_about_to_receive() -> None:
    """A sender of a large object sees that a rank receives by requests, or sends one itself."""

    def refuse(*_: Any) -> bytes:
        raise MemoryError

    with exchange() as ex:
        large = np.full(9 << 20, rank, "u1")
        busy = ex._bodies.busy
        posted = ex.irecv(source=left)
        assert busy[0] == slab.REQUESTS
        ex.send(large, right)
        assert busy[0] == slab.REQUESTS
        assert same(posted.wait(), np.full(9 << 20, left, "u1"))
        ex.send(large, right)
        assert same(ex.recv(source=left), np.full(9 << 20, left, "u1"))
        assert busy[0] == 0
        comm.Barrier()
        ex.send(large, right)
        assert busy[0] == 0
        comm.Barrier()
        vars(ex._bodies)["_say"] = refuse
        raises(MemoryError, lambda: ex.send(large, right))
        assert busy[0] == 0
        comm.Barrier()
        assert same(ex.recv(source=left), np.full(9 << 20, left, "u1"))


def full_disk() -> None:
    """What the slab has no room for when its message is under way goes another way."""
    with Exchange(comm, base / "small" / "store") as ex, no_memory():
        array = np.arange(20 << 17) + rank
        for nbytes in (9_000, 10):
            comm.Barrier()
            if rank % 2:
                assert len(ex.recv(source=other, tag=2)) == nbytes  # others' first
                assert (ex.recv(source=other, tag=1) == array - 1).all()
            elif other < size:
                time.sleep(1)  # the receiver is in `recv`: its slab takes any length
                request = ex.isend(array, other, 1)
                ex.send(bytes(nbytes), other, 2)
                request.wait()


def small_part_of_a_message() -> None:
    """It does not keep the rest in memory."""
    import psutil

    with exchange() as ex:
        parts = []
        memory = psutil.Process().memory_info().rss
        for _ in range(60):
            message = [np.ones(1 << 10, "u1"), np.ones(4 << 20, "u1")]
            parts.append(ex.sendrecv(message, right, 0, None, left)[0])
        gc.collect()
        assert psutil.Process().memory_info().rss - memory < 60 << 20
        assert all(part.all() for part in parts)


def threads() -> None:
    """Each receives its own messages, whole, while others send."""
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        return
    errors: list[BaseException] = []
    with exchange() as ex:

        def receive(tag: int) -> None:
            try:
                for n in range(60):
                    got, array = ex.recv(source=left, tag=tag)
                    assert (got, array[0], array[-1]) == (n, tag, tag)
            except BaseException as error:
                errors.append(error)

        def send(tag: int) -> None:
            try:
                for n in range(60):
                    ex.send((n, np.full(1 + 977 * n * tag, tag, "u1")), right, tag)
            except BaseException as error:
                errors.append(error)

        workers = [
            threading.Thread(target=f, args=(tag,)) for tag in (1, 2, 3) for f in (receive, send)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert errors == []
        assert left_behind(ex) == []


def others_end_beside_a_thread() -> None:
    """A thread gets all of its objects while others drop what nobody has received."""
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        return
    wrong: list[Any] = []
    with exchange() as ex:

        def receive() -> None:
            for _ in range(600):
                for nbytes in (50_000, 200_000):
                    array = np.ones(nbytes, "u1")
                    got = ex.sendrecv(array, right, 1, None, left, 1)
                    if not same(got, array):
                        wrong.append(got)

        thread = threading.Thread(target=receive)
        thread.start()
        for _ in range(30):
            with ex.Dup() as ending:
                for _ in range(40):
                    ending.isend(np.ones(200_000, "u1"), right)
        thread.join()
        assert not wrong, (len(wrong), wrong[0])


def too_many_of_them() -> None:
    """MPI says so, what is open goes on, and there is room again for what is closed."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    made: list[Exchange] = []
    with FileConnector(base / "store") if rank == 0 else open(os.devnull):
        comm.Barrier()
        first = exchange()

        try:
            for _ in range(5000):
                made.append(first.Dup())
        except RuntimeError as error:  # MPI's own, or that the Exchange needs a second one
            assert "communicators" in str(error)
        assert len(made) > 500  # Open MPI has no limit that is near
        assert made[-1].sendrecv(rank, right, 0, None, left) == left
        for each in made:
            each.Free()
        with first.Dup() as another:
            assert another.allgather(rank) == list(range(size))
        first.close()


class Unloadable:
    """Raises where it is received."""

    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> None:
    raise ValueError("not to be loaded")


def sendrecv_that_cannot_receive() -> None:
    """What it has sent arrives, also if MPI has not taken it when the receive raises."""
    texts = [f"{n:5}" + 3000 * "a" for n in range(1000)]
    with exchange() as ex:
        for wrong, tag in ((ValueError, 1), (ArgumentError, -5)):
            if rank == 1:
                for _ in texts if tag == 1 else ():
                    ex.send(Unloadable(), 0, 1)
                ex.barrier()
                assert [ex.recv(source=0, tag=0) for _ in texts] == texts
            else:
                for text in texts if rank == 0 else ():
                    raises(wrong, partial(ex.sendrecv, text, 1, 0, None, 1, tag))
                others = ["b" + text[1:] for text in texts]
                ex.barrier()
                del others
            ex.barrier()


def what_is_sent_to_nobody_takes_no_room() -> None:
    with exchange() as ex:
        for _ in range(slab.SLOTS + 1):
            ex.send(np.ones(1 << 14), MPI.PROC_NULL)
            ex.isend(np.ones(1 << 14), MPI.PROC_NULL).wait()
            assert ex.sendrecv([np.ones(1 << 14)], MPI.PROC_NULL, source=MPI.PROC_NULL) is None
        own = ex._bodies._slab
        assert own is None or not any(own.slots)


def handler_that_raises_in_sendrecv() -> None:
    """As above: MPI still has what was sent when the request is gone."""
    if rank:
        with exchange() as ex:
            while (obj := ex.recv(source=0)) is not None:
                number = obj["number"]
                assert obj == _numbered(number)
        return
    armed: list[int] = []

    def give_up(*_: object) -> None:
        if armed:
            raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, give_up)
    end = time.monotonic() + 2
    number = 0
    verbs = [
        lambda obj: ex.sendrecv(obj, 1, 0, None, MPI.PROC_NULL),
        lambda obj: ex.isend(obj, 1).wait(),
    ]
    with exchange() as ex:
        while time.monotonic() < end:
            number += 1
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    armed.append(number)
                    signal.setitimer(signal.ITIMER_REAL, 1e-5 + number % 40 * 1e-6)
                    verbs[number % 2](_numbered(number))
                finally:
                    armed.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        ex.send(None, 1)


def _numbered(number: int) -> dict[str, Any]:
    return {
        "number": number,
        "l": [[number] * 5, "x" * (number % 3000)],
        "s": "y" * (number % 4000),
    }


def send_with_another_protocol() -> None:
    """Of mpi4py's: a message in it may be too long for MPI to take at once."""
    if MPI.get_vendor()[0] == "Open MPI":  # takes little of anybody who does not call it
        return
    gone = base / "gone"
    with exchange() as ex:
        ex.barrier()
        before = MPI.pickle.PROTOCOL
        try:
            for protocol, obj in (
                (0, "\u0416" * (limits.EAGER // 2 - 60)),
                (2, b"\xff" * (limits.EAGER - 60)),
            ):
                MPI.pickle.PROTOCOL = protocol
                if rank == 0:
                    ex.send(obj, 1)
                    gone.touch()
                elif rank == 1:
                    while not gone.exists():
                        time.sleep(0.01)
                    assert ex.recv(source=0) == obj
                    gone.unlink()
                ex.barrier()
        finally:
            MPI.pickle.PROTOCOL = before


def collector_after_a_failure() -> None:
    """The garbage collector can clear what a failed collective leaves (cpython#77894)."""
    fortran, moments = np.asfortranarray(np.ones((90, 90))), np.zeros(6000, "M8[s]")
    with exchange() as ex:
        for array in (np.zeros(6000)[::2], fortran, np.ones(6000, ">f8"), moments):
            for verb in (ex.gather, ex.allgather, lambda obj: ex.alltoall([obj] * size)):
                with contextlib.suppress(RemoteError, SerializationError):
                    verb(threading.Lock() if rank == 1 else [array])
                gc.collect()


# ---- classes of the script ----------------------------------------------------------------------

mass = np.zeros(64 << 20, "u1")
open_exchange: Any = None


class Heavy:
    """Names a large global, and the Exchange."""

    def weigh(self) -> int:
        return mass.nbytes if open_exchange is not None else 0


def classes_go_by_reference() -> None:
    global open_exchange
    with exchange() as ex:
        open_exchange = ex
        status = MPI.Status()
        ex.isend(Heavy(), right)
        ex.Probe(left, 0, status)
        assert status.Get_count() < 100
        got = ex.recv(source=left)
        assert type(got) is Heavy
        ex.isend([Heavy, np.ones(100_000), lambda: right], right)
        kind, array, function = ex.recv(source=left)
        assert kind is Heavy
        assert array.all()
        assert function() == rank


if __name__ == "__main__":
    sys.modules["tests.ranks.matching"] = sys.modules["__main__"]
    run(globals())
