"""Memory that one process lends to another: it comes back, and nothing stays."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fsexchange import RemoteError
from fsexchange.filesystem.capacity import free_memory
from fsexchange.mpi import room as module
from fsexchange.mpi.lending import LentMemory

from .processes import fork

MEGA = 1 << 20
PIECES = [b"x" * MEGA, b"", b"y" * 1000, b"z"]

#: How many pieces may wait.
MOST = 4


@pytest.fixture
def lent() -> memoryview:
    """Return bytes that forked processes share, as those of a slab."""
    return memoryview(mmap.mmap(-1, mmap.PAGESIZE))[:MOST]


@pytest.fixture
def lender(lent: memoryview) -> Iterator[LentMemory]:
    made = a_lender(lent)
    yield made
    made.close()


def a_lender(lent: memoryview) -> LentMemory:
    connector: Any = None  # which only files need
    return LentMemory(connector, lent, ["here", "there"])


def put(lender: LentMemory, pieces: list[bytes]) -> tuple[int, int, bytes]:
    """Lend pieces, and return what `fetch` takes."""
    sent = lender.put([*pieces], sum(map(len, pieces)), 1)
    assert sent is not None
    return sent.number, sum(map(len, pieces)), sent.place


def fetch(lender: LentMemory, number: int, nbytes: int, place: bytes) -> memoryview:
    """Take what was lent, and say so."""
    try:
        return memoryview(lender.fetch(0, number, nbytes, place))
    finally:
        lender._lent[number] = 0


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def in_another(work: Callable[[], object]) -> None:
    assert os.waitpid(fork(work), 0)[1] == 0


def test_another_process_takes_it(lender: LentMemory, lent: memoryview) -> None:
    before = descriptors()
    said = put(lender, PIECES)
    assert (lender.nbytes, descriptors()) == (said[1], before + 1)

    def receive() -> None:
        got = fetch(a_lender(lent), *said)
        assert bytes(got) == b"".join(PIECES)
        got[0] = 7

    lender.look()
    assert lender.nbytes == said[1]
    in_another(receive)
    lender.look()
    assert (lender.nbytes, descriptors()) == (0, before)


def test_what_was_taken_outlives_the_sender(lent: memoryview) -> None:
    lender = a_lender(lent)
    got = fetch(lender, *put(lender, PIECES))
    lender.close()
    assert bytes(got) == b"".join(PIECES)


def test_so_many_pieces_wait_and_no_more(lender: LentMemory, lent: memoryview) -> None:
    before = descriptors()
    said = [put(lender, [b"%d" % n * 5000]) for n in range(MOST)]
    assert lender.put([b"more"], 4, 1) is None
    assert bytes(fetch(lender, *said[2])) == b"2" * 5000
    said[2] = put(lender, [b"again" * 1000])
    assert lender.put([b"more"], 4, 1) is None
    assert bytes(fetch(lender, *said[2])) == b"again" * 1000
    for each in (said[3], said[0], said[1]):
        fetch(lender, *each)
    lender.look()
    assert (lender.nbytes, descriptors(), bytes(lent)) == (0, before, bytes(MOST))


def test_withdrawn(lender: LentMemory) -> None:
    before = descriptors()
    for _ in range(2 * MOST):
        sent = lender.put([b"x"], 1, 1)
        assert sent is not None
        sent.withdraw()
    assert (lender.nbytes, descriptors()) == (0, before)


def test_no_memory(lender: LentMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    for _ in range(2 * MOST):
        assert lender.put([b"x"], free_memory() + (1 << 30), 1) is None
    monkeypatch.setattr(os, "memfd_create", raiser(OSError(24, "too many open files")))
    for _ in range(2 * MOST):
        assert lender.put([b"x"], 1, 1) is None
    monkeypatch.undo()
    assert descriptors() == before
    for _ in range(2 * MOST):  # no number is lost
        assert bytes(fetch(lender, *put(lender, PIECES))) == b"".join(PIECES)


def test_interrupted(lender: LentMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    places: list[tuple[Any, str]] = [(module.HostRoom, "fill"), (module, "memory_to_share")]
    for where, name in places:
        with monkeypatch.context() as patch:
            patch.setattr(where, name, raiser(KeyboardInterrupt()))
            for _ in range(2 * MOST):
                with pytest.raises(KeyboardInterrupt):
                    lender.put([b"x"], 1, 1)
    assert descriptors() == before
    fetch(lender, *put(lender, PIECES))


def test_an_error_of_a_handler_is_not_one_of_memory(
    lender: LentMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alarmed(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGALRM)

    monkeypatch.setattr(module.HostRoom, "fill", alarmed)
    before = signal.signal(signal.SIGALRM, raiser(TimeoutError("it took too long")))
    try:
        with pytest.raises(TimeoutError, match="too long"):
            lender.put([b"x"], 1, 1)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert lender.nbytes == 0


def raiser(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_: object, **__: object) -> None:
        raise error

    return raise_it


def test_sender_is_killed(lender: LentMemory, lent: memoryview) -> None:
    """Before its receiver comes, who hears of it; nothing is left."""
    receiving, sending = os.pipe()

    def send() -> None:
        number, nbytes, place = put(a_lender(lent), PIECES)
        os.write(sending, b"%d %d %s" % (number, nbytes, place.hex().encode()))
        signal.pause()

    child = fork(send)
    number, nbytes, place = os.read(receiving, 1000).split()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for _ in range(2):
        with pytest.raises(RemoteError, match=r"rank 0 \(here\) ended before") as caught:
            fetch(lender, int(number), int(nbytes), bytes.fromhex(place.decode()))
        assert caught.value.rank == 0
    os.close(receiving)
    os.close(sending)


def test_receiver_is_killed_before_it_comes(lent: memoryview) -> None:
    before = descriptors()
    lender = a_lender(lent)
    child = fork(signal.pause)
    put(lender, PIECES)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lender.close()
    assert descriptors() == before


def test_forked_child_keeps_nothing(lender: LentMemory, lent: memoryview) -> None:
    before = descriptors()
    said = put(lender, PIECES)

    def look() -> None:
        assert descriptors() == before
        assert not [link for link in _links() if "memfd:fsexchange" in link]
        with open("/proc/self/maps") as maps:
            assert "memfd:fsexchange" not in maps.read()

    in_another(look)
    lender.look()
    assert lent[said[0]]
    assert bytes(fetch(lender, *said)) == b"".join(PIECES)


def _links() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the one of the listing
            pass
    return found


def test_the_last_descriptors_are_for_the_program(lender: LentMemory) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, free = descriptors(), os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
    try:
        sent = lender.put([b"x" * MEGA], MEGA, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert sent is None
    assert (lender.nbytes, descriptors()) == (0, before)


def test_threads_lend_at_the_same_time(lender: LentMemory, lent: memoryview) -> None:
    """To end what one has lent takes a while, in which others lend; no number is lent twice."""
    before = descriptors()
    wrong: list[object] = []

    def exchange(n: int) -> None:
        for _ in range(60):
            sent = lender.put([bytes([n]) * (6 * MEGA)], 6 * MEGA, 1)
            if sent is None:  # others have them all
                continue
            try:
                got = fetch(lender, sent.number, 6 * MEGA, sent.place)
                if got[0] != n or got[-1] != n:
                    wrong.append(n)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=exchange, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lender.look()
    assert not wrong
    assert descriptors() == before
    assert sorted(lender._free) == list(range(MOST))
