"""A slab: bodies that one process copies in and another copies out."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fsexchange.mpi import gathered
from fsexchange.mpi import slab as module
from fsexchange.mpi.received import empty
from fsexchange.mpi.slab import SLOT, SLOTS, BrokenBodyError, Slab

from .processes import fork

pytestmark = pytest.mark.skipif(not module.IN_USE, reason="without C there is no slab")


@pytest.fixture
def slab() -> Iterator[Slab]:
    made = Slab()
    yield made
    made.close()
    vars(made).clear()  # the mapping has a descriptor, and pytest keeps what a fixture has made


def no_spill(start: int, sent: Any) -> bytes:
    raise AssertionError(f"no slot was free at {start}")


def no_rest(place: bytes, nbytes: int) -> bytes:
    raise AssertionError(f"{nbytes} bytes are elsewhere")


def body(choose: random.Random) -> list[bytes]:
    """Return random buffers: short and long, one and many."""
    sizes = [0, 1, 63, 64, 65, 4095, 4096, 4097, SLOT - 1, SLOT, SLOT + 1, 3 * SLOT + 7]
    count = choose.choice([1, 1, 2, 3, 20])
    return [choose.randbytes(choose.choice(sizes)) for _ in range(count)]


def received(slab: Slab, record: int, sizes: list[int]) -> list[bytes]:
    into = slab.empty(record, gathered.starts_of(sizes)[-1], [], no_rest)
    return [bytes(each) for each in gathered.cut(into, sizes)]


def taken(slab: Slab, nbytes: int) -> int:
    """Take a record and return its number."""
    held: list[int] = []
    assert slab.take(nbytes, held, slab)
    (record,) = held
    return record


def send(slab: Slab, buffers: list[bytes]) -> int:
    starts = gathered.starts_of([len(each) for each in buffers])
    slab.receiving[0] = 1
    record = taken(slab, starts[-1])
    slab.fill(record, buffers, starts, no_spill, [])
    return record


def is_empty(slab: Slab) -> bool:
    """Return whether all slots and records are free."""
    return not any(slab.memory[module._SLOT_BYTES : module._LOANS_AT])


def test_random_bodies(slab: Slab) -> None:
    """Each as it was sent, through all slots in turn, and with several there at a time."""
    choose = random.Random(7)
    for _ in range(60):
        bodies = [body(choose) for _ in range(choose.choice([1, 2, 3]))]
        records = [send(slab, each) for each in bodies]
        slab.receiving[0] = 0
        for buffers, record in choose.sample([*zip(bodies, records, strict=True)], len(bodies)):
            assert received(slab, record, [*map(len, buffers)]) == buffers
        assert is_empty(slab)


def test_body_of_many_times_the_slab(slab: Slab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes through it, while its receiver copies behind."""
    monkeypatch.setattr(module, "_PATIENCE", 30)
    buffers = [random.Random(n).randbytes(n) for n in (5 * SLOT * SLOTS + 3, 100, 3 * SLOT)]
    sizes = [*map(len, buffers)]
    slab.receiving[0] = 1
    record = taken(slab, sum(sizes))

    def receive() -> None:
        assert received(slab, record, sizes) == buffers

    child = fork(receive)
    slab.fill(record, buffers, gathered.starts_of(sizes), no_spill, [])
    assert os.waitpid(child, 0)[1] == 0
    slab.receiving[0] = 0
    assert is_empty(slab)


def test_sender_waits_for_a_receiver_that_comes(
    slab: Slab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as long as it may, and not for one that receives by requests, or sends itself."""
    monkeypatch.setattr(module, "_HOPE_PER_BYTE", 1.0)  # for ever, as tests are limited
    too_long = SLOTS * SLOT + 1
    other = Slab()
    held: list[int] = []

    def receive() -> None:
        while not slab.busy[0]:  # it waits
            time.sleep(0.001)
        other.receiving[0] = 1

    child = fork(receive)
    assert slab.take(too_long, held, other)
    assert os.waitpid(child, 0)[1] == 0
    slab.give_back(held.pop())
    other.receiving[0] = 0
    for why in (module.REQUESTS, module.SENDS):
        other.busy[0] = why
        assert not slab.take(too_long, held, other)
    other.busy[0] = 0
    assert slab.busy[0] == module.SENDS  # until the body is placed
    assert not other.take(too_long, held, slab)
    monkeypatch.setattr(module, "_HOPE_PER_BYTE", 1e-8)
    slab.busy[0] = 0
    # Half as long after it has waited in vain, and one time in some the whole again.
    waits = [too_long * 1e-8 / 2**missed for missed in range(module._WHOLE_AGAIN)]
    took = []
    for least in [*waits, waits[0]]:
        began = time.perf_counter()
        assert not other.take(too_long, held, slab)
        took.append(time.perf_counter() - began)
        assert took[-1] >= least
    assert min(took) < waits[0]
    other.close()
    assert held == []
    assert is_empty(slab)


def test_body_for_several_readers(slab: Slab) -> None:
    """Each gets it, as it is filled; it has its slots from the start, until the last is done."""
    readers = 3
    buffers = [random.Random(n).randbytes(n) for n in (20 * SLOT + 3, 100, 7 * SLOT)]
    sizes, starts = [*map(len, buffers)], gathered.starts_of([*map(len, buffers)])
    held: list[int] = []
    slots: list[int] = []
    assert slab.take_all(starts[-1], held, slots, readers)
    assert len(slots) == 28
    reads, go_on = os.pipe()

    def receive(waits: bool) -> None:
        if waits:
            os.read(reads, 1)
        assert received(slab, held[0], sizes) == buffers

    children = [fork(partial(receive, n > 0)) for n in range(readers)]
    slab.fill(held[0], buffers, starts, None, [])
    assert os.waitpid(children.pop(0), 0)[1] == 0
    assert {*slab.slots} == {0, readers - 1}
    os.write(go_on, b"." * readers)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert is_empty(slab)
    os.close(reads)
    os.close(go_on)


def test_body_that_is_to_have_all_its_slots(slab: Slab) -> None:
    """It gets none if there are too few, and gives back what nobody was told of."""
    held: list[int] = []
    slots: list[int] = []
    assert not slab.take_all((SLOTS + 1) * SLOT, held, slots, 1)
    assert (held, slots) == ([], [])
    assert slab.take_all((SLOTS - 1) * SLOT + 1, held, slots, 1)
    others: list[int] = []
    assert not slab.take_all(1, others, others, 1)
    slab.give_all_back(held, slots)
    assert is_empty(slab)
    held.clear()
    slots.clear()
    assert slab.take_all(3 * SLOT, held, slots, 1)
    unreadable: Any = [bytes(SLOT), object()]
    with pytest.raises(TypeError):
        slab.fill(held[0], unreadable, [0, SLOT, 3 * SLOT], None, [])
    assert sum(slab.slots) <= 1  # what is ready
    with pytest.raises(BrokenBodyError):
        slab.empty(held[0], 3 * SLOT, [], no_rest)
    assert is_empty(slab)


def test_rest_of_a_body_for_which_no_slot_is_free(slab: Slab) -> None:
    buffers = [random.Random(1).randbytes((SLOTS + 5) * SLOT + 9)]
    sizes = [*map(len, buffers)]
    spilled: list[int] = []

    def spill(start: int, sent: Any) -> bytes:
        spilled.append(start)
        return b"elsewhere"

    slab.receiving[0] = 1
    record = taken(slab, sum(sizes))
    slab.receiving[0] = 0
    slab.fill(record, buffers, gathered.starts_of(sizes), spill, [])

    def rest(place: bytes, nbytes: int) -> bytes:
        assert place.rstrip(b"\0") == b"elsewhere"
        return buffers[0][-nbytes:]

    assert slab.empty(record, sizes[0], [], rest) == buffers[0]
    assert spilled == [SLOTS * SLOT]
    assert is_empty(slab)


def test_sender_that_is_interrupted(slab: Slab) -> None:
    """Its receiver hears of it, and no slot is lost."""

    def interrupt(start: int, sent: Any) -> bytes:
        raise HandlerError

    slab.receiving[0] = 1
    record = taken(slab, (SLOTS + 1) * SLOT)
    slab.receiving[0] = 0
    buffers = [bytes((SLOTS + 1) * SLOT)]
    with pytest.raises(HandlerError):
        slab.fill(record, buffers, gathered.starts_of([len(buffers[0])]), interrupt, [])
    with pytest.raises(BrokenBodyError):
        slab.empty(record, len(buffers[0]), [], no_rest)
    assert is_empty(slab)


class HandlerError(Exception):
    pass


def interrupt(seconds: float, work: Callable[[], object]) -> None:
    """Do some work, in which a signal's handler raises after so many seconds."""
    armed = [True]

    def handler(*_: Any) -> None:
        if armed:
            armed.clear()
            raise HandlerError

    before = signal.signal(signal.SIGUSR1, handler)
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        try:
            timer.start()
            work()
        finally:
            armed.clear()
    except HandlerError:
        pass
    timer.join()
    signal.signal(signal.SIGUSR1, before)


def test_sender_that_is_interrupted_at_any_place(slab: Slab) -> None:
    buffers = [random.Random(1).randbytes(40 * SLOT)]
    choose = random.Random(2)
    lost = 0
    for _ in range(300):
        record = taken(slab, 40 * SLOT)
        fill = partial(slab.fill, record, buffers, [0, 40 * SLOT], no_spill, [])
        interrupt(choose.uniform(1e-5, 1e-3), fill)
        fill()  # as whoever calls it does
        with contextlib.suppress(BrokenBodyError):
            assert slab.empty(record, 40 * SLOT, [], no_rest) == buffers[0]
        lost += sum(slab.memory[module._SLOT_BYTES : module._LOANS_AT])
        slab.memory[module._SLOT_BYTES : module._LOANS_AT] = bytes(SLOTS + module.RECORDS)
    assert lost == 0


def test_receiver_that_is_interrupted_at_any_place(slab: Slab) -> None:
    """The rest of the body is taken out, by another call if this one has not begun."""
    choose = random.Random(3)
    for n in range(60):
        nbytes = (SLOTS - 8) * SLOT
        record = taken(slab, nbytes)

        def send(record: int = record, nbytes: int = nbytes, n: int = n) -> None:
            slab.fill(record, [bytes([n]) * nbytes], [0, nbytes], no_spill, [])

        child = fork(send)
        held = [b"held"]
        receive = partial(slab.empty, record, nbytes, held, no_rest)
        interrupt(choose.choice([0, choose.uniform(1e-4, 1e-2)]), receive)
        if held:
            receive()
        assert os.waitpid(child, 0)[1] == 0
        assert is_empty(slab)


def test_receiver_without_memory(slab: Slab) -> None:
    """It says so, and no slot stays with it."""
    nbytes = 128 << 20
    slab.receiving[0] = 1
    record = taken(slab, nbytes)

    def receive() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + (8 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        with pytest.raises(MemoryError):
            slab.empty(record, nbytes, [], no_rest)

    child = fork(receive)
    slab.fill(record, [bytes(nbytes)], [0, nbytes], lambda start, sent: b"", [])
    assert os.waitpid(child, 0)[1] == 0
    slab.receiving[0] = 0
    assert is_empty(slab)


def test_handlers_run_while_a_long_body_comes(slab: Slab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 30)
    nbytes = 1 << 29
    slab.receiving[0] = 1
    record = taken(slab, nbytes)
    child = fork(lambda: slab.fill(record, [bytes(nbytes)], [0, nbytes], no_spill, []))
    ran: list[float] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: ran.append(time.monotonic()))
    due = time.monotonic() + 0.02
    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    slab.empty(record, nbytes, [], no_rest)
    end = time.monotonic()
    timer.join()
    signal.signal(signal.SIGUSR1, before)
    assert os.waitpid(child, 0)[1] == 0
    slab.receiving[0] = 0
    assert ran
    assert ran[0] - due < 0.5 * (end - due)
    assert is_empty(slab)


def test_buffers_that_cannot_be_read(slab: Slab) -> None:
    """As for any error, nothing is lost."""
    record = taken(slab, 2 * SLOT)
    buffers: Any = [object()]
    with pytest.raises(TypeError):
        slab.fill(record, buffers, [0, 2 * SLOT], no_spill, [])
    with pytest.raises(BrokenBodyError):
        slab.empty(record, 2 * SLOT, [], no_rest)
    assert is_empty(slab)


def test_receiver_that_waits_can_be_interrupted(slab: Slab) -> None:
    """By Ctrl-C, while its sender has begun and copies no more."""
    record = taken(slab, 2 * SLOT)
    pid = os.getpid()
    timer = threading.Timer(0.3, os.kill, (pid, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        slab.empty(record, 2 * SLOT, [], no_rest)
    timer.join()


def test_threads_share_a_slab(slab: Slab) -> None:
    """Four senders and four receivers; each body arrives as it was sent."""
    failed: list[object] = []

    def exchange(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(40):
            buffers = body(choose)
            sizes = [*map(len, buffers)]
            if sum(sizes) == 0:
                continue
            held: list[int] = []
            if not slab.take(gathered.starts_of(sizes)[-1], held, slab):
                continue
            (record,) = held
            slab.fill(record, buffers, gathered.starts_of(sizes), no_spill, [])
            if received(slab, record, sizes) != buffers:
                failed.append(sizes)

    threads = [threading.Thread(target=exchange, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert is_empty(slab)


# ---- arrays in C --------------------------------------------------------------------------------

FAMILY, RANK, PICKLE = b"a family", 3, b"the pickle of an array"
IN_SLOT, IN_RECORD = range(2)


class Arriving:
    """What arrives of one sender, whose slab has arrays."""

    def __init__(self) -> None:
        self.slab = Slab()
        self.status = SimpleNamespace(nbytes=0)
        self.lent: dict[int, Any] = {}
        self.taken: list[list[Any]] = []
        self.dropped: list[list[Any]] = []

    def __call__(self, kind: int, number: int, nbytes: int, body: bytes = PICKLE) -> Any:
        said = struct.pack("<8sIHHQQQ", FAMILY, RANK, kind, 1, number, nbytes, nbytes) + body
        senders: Any = {said[:12]: (self.slab.memory, self.status, self.slab.receiving, self.lent)}
        arrays: Any = {PICKLE: (np.dtype("u1"), (nbytes,))}

        def take(held: list[Any]) -> str:
            self.taken.append([*held])
            held.clear()
            return "taken"

        def drop(held: list[Any]) -> None:
            self.dropped.append([*held])

        return module._native.arrive(senders, arrays, np.ndarray, empty, take, drop, said)


@pytest.fixture
def arriving() -> Iterator[Arriving]:
    made = Arriving()
    yield made
    made.slab.close()
    vars(made).clear()  # as above


def test_array_in_a_slot(arriving: Arriving) -> None:
    slab = arriving.slab
    for nbytes in (1, 6072, SLOT - 1, SLOT):
        data = random.Random(nbytes).randbytes(nbytes)
        held: list[int] = []
        said = module._native.place(slab.memory, held, 1, b"<", b"of so many: ", PICKLE, data, b">")
        (slot,) = held
        assert said is not None
        number = said[25]
        assert number % SLOTS == slot
        length = struct.pack("<Q", 40 + len(PICKLE))
        says = struct.pack("<HHQQQ", IN_SLOT, 1, number, nbytes, nbytes)
        assert said == b"<" + length + b"of so many: " + says + PICKLE + b">"
        slab.receiving[0] = 1
        array = arriving(IN_SLOT, number, nbytes)
        assert array.tobytes() == data
        assert array.flags.writeable
        assert array.flags.owndata
        assert arriving.status.nbytes == 40 + len(PICKLE) + nbytes
        assert slab.receiving[0] == 0
        assert is_empty(slab)
    assert arriving.taken == arriving.dropped == []


def test_no_slot_is_taken_for_what_cannot_be_placed(arriving: Arriving) -> None:
    slab = arriving.slab
    place = partial(module._native.place, slab.memory)
    for wrong in ([b"<", b"short", PICKLE, b"", b">"], [b"<", bytes(12), PICKLE, bytes(SLOT + 1)]):
        with pytest.raises((TypeError, ValueError)):
            place([], 1, *wrong)
    with pytest.raises(TypeError):
        place([], 1, b"<", bytes(12), PICKLE, "text", b">")  # type: ignore[arg-type]
    assert is_empty(slab)
    held: list[int] = []
    for _ in range(SLOTS):
        assert place(held, 1, b"<", bytes(12), PICKLE, b"data", b">")
    assert place(held, 1, b"<", bytes(12), PICKLE, b"data", b">") is None
    assert sorted(held) == [*range(SLOTS)]
    assert arriving(IN_SLOT, 5, 4).tobytes() == b"data"
    assert place(held, 1, b"<", bytes(12), PICKLE, b"data", b">")


def test_array_of_many_slots(arriving: Arriving) -> None:
    slab = arriving.slab
    for nbytes in (SLOT + 1, 20 * SLOT, 100 * SLOT + 7):
        data = random.Random(nbytes).randbytes(nbytes)
        record = send(slab, [data])
        assert arriving(IN_RECORD, record, nbytes).tobytes() == data
        assert is_empty(slab)
    assert arriving.taken == arriving.dropped == []


def ways(slab: Slab, record: int, slots: int) -> set[int]:
    """Return how the slots of a record were filled: 1 past the caches, else 0."""
    at = module._RECORDS_AT + record * module._RECORD + module._PIECES
    return {number // SLOTS for number in slab.memory[at : at + slots]}


def test_bodies_pass_both_ways(arriving: Arriving) -> None:
    """Now and then the slower one is tried."""
    slab, choose = arriving.slab, random.Random(1)
    taken: set[int] = set()
    received(slab, send(slab, [b"for which nothing is known"]), [26])
    for _ in range(40):
        sizes = [choose.randrange(1, 5000), choose.randrange(20 * SLOT, 60 * SLOT)]
        buffers = [choose.randbytes(nbytes) for nbytes in sizes]
        record = send(slab, buffers)
        taken |= ways(slab, record, sum(sizes) // SLOT)
        assert received(slab, record, sizes) == buffers
        assert is_empty(slab)
    assert taken == {0, 1}


def test_a_record_is_given_back_whichever_way_it_was_filled(arriving: Arriving) -> None:
    """The numbers of its slots say which."""
    slab = arriving.slab
    taken: set[int] = set()
    for _ in range(60):
        record = send(slab, [bytes(30 * SLOT)])
        taken |= ways(slab, record, 30)
        slab.give_back(record)
        assert is_empty(slab)
    assert taken == {0, 1}


@pytest.mark.parametrize("faster", [0, 1])
def test_the_way_that_took_less_time_is_taken(arriving: Arriving, faster: int) -> None:
    slab = arriving.slab
    for which in (1 - faster, faster):
        took = [1000, 1000]
        took[which] = 700
        for at in (module._PACES_AT, module._PACES_AT + 64):
            struct.pack_into("2I", slab.memory, at, *took)
        struct.pack_into("2I", slab.memory, module._PACES_AT + 12, 1, 512)  # it is to be found now
        for n in range(2):
            record = send(slab, [bytes(3000)])  # too short to be timed
            assert received(slab, record, [3000])
            if n:
                assert ways(slab, record, 1) == {which}


def test_array_whose_rest_is_elsewhere_is_taken_from_where_it_goes_on(arriving: Arriving) -> None:
    slab = arriving.slab
    nbytes = (SLOTS + 5) * SLOT + 9
    data = random.Random(1).randbytes(nbytes)
    slab.receiving[0] = 1
    record = taken(slab, nbytes)
    slab.fill(record, [data], [0, nbytes], lambda start, sent: b"elsewhere", [])
    assert arriving(IN_RECORD, record, nbytes) == "taken"
    ((_, (array, copied)),) = held = arriving.taken
    assert int.from_bytes(copied, sys.byteorder) == SLOTS * SLOT
    assert not any(slab.slots)
    into = slab.empty(record, nbytes, held[0], lambda place, left: data[-left:])
    assert into == array.data == data
    assert is_empty(slab)


def test_handler_that_raises_when_python_takes_over(
    arriving: Arriving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not lost how much was copied."""
    monkeypatch.setattr(module, "_PATIENCE", 30)
    slab = arriving.slab
    nbytes = (2 * SLOTS + 80) * SLOT
    data = bytes(nbytes)
    slab.receiving[0] = 1
    record = taken(slab, nbytes)

    class Cleared(list[Any]):
        def clear(self) -> None:
            super().clear()
            raise KeyError("a handler")

    filling = threading.Thread(
        target=slab.fill, args=(record, [data], [0, nbytes], no_spill, []), daemon=True
    )
    filling.start()
    array, copied = np.empty(nbytes, np.uint8), memoryview(bytearray(8))
    while int.from_bytes(copied, sys.byteorder) < (2 * SLOTS + 70) * SLOT:
        at = module._RECORDS_AT + record * module._RECORD
        module._native.empty(slab.memory, at, array.data, nbytes, copied)
    filling.join()
    with pytest.raises(KeyError, match="a handler"):
        slab.empty(record, nbytes, Cleared([b"said", (array, copied)]), no_rest)
    assert is_empty(slab)


def test_handler_that_raises_while_an_array_comes(arriving: Arriving) -> None:
    slab = arriving.slab
    nbytes = 8 * SLOT
    record = send(slab, [bytes(nbytes)])
    at = module._RECORDS_AT + record * module._RECORD
    slab.memory[at] = 5  # as if its sender had got so far

    def handler(number: int, frame: Any) -> None:
        raise KeyError("a handler")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyError, match="a handler"):
            arriving(IN_RECORD, record, nbytes)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    ((_, (_, copied)),) = held = arriving.dropped
    assert int.from_bytes(copied, sys.byteorder) == 5 * SLOT
    slab.memory[at] = 8
    slab.empty(record, nbytes, held[0], no_rest)
    assert is_empty(slab)


@pytest.mark.parametrize("wrong", ["pickle", "kind", "number", "lent", "short"])
def test_all_but_arrays_in_the_slab_is_taken_in_python(arriving: Arriving, wrong: str) -> None:
    if wrong == "lent":
        arriving.lent[1] = "memory"
    kind = 2 if wrong == "kind" else IN_SLOT
    number = 2 * SLOTS if wrong == "number" else 0
    body = {"pickle": b"of something else", "short": b""}.get(wrong, PICKLE)
    assert arriving(kind, number, 100, body) == "taken"
    assert [len(held) for held in arriving.taken] == [1]


def test_array_of_several_slots_starts_at_a_line(arriving: Arriving) -> None:
    """Just after a page, as malloc maps it, some processors copy to it for seven times as long."""
    for nbytes in (3 * SLOT, 40 * SLOT + 8):
        record = send(arriving.slab, [bytes(nbytes)])
        assert arriving(IN_RECORD, record, nbytes).ctypes.data % 64 == 0


def test_receiver_without_memory_for_an_array_drops_it(arriving: Arriving) -> None:
    record = send(arriving.slab, [bytes(3 * SLOT)])
    with pytest.raises((MemoryError, ValueError)):
        arriving(IN_RECORD, record, 1 << 62)
    assert [len(held) for held in arriving.dropped] == [1]
