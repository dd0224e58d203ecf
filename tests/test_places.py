"""Places: what one rank puts there others read, once each; nothing is written over before."""

from __future__ import annotations

import os
import random
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange.filesystem import mapping
from fsexchange.mpi import wire
from fsexchange.mpi.codec import Codec
from fsexchange.mpi.message import Message, Pieces, a_call, is_of, joined, length, of_object
from fsexchange.mpi.places import _PLACE, _TURNS, Places
from fsexchange.mpi.slab import KEEPS_ORDER

from .processes import fork

pytestmark = pytest.mark.skipif(not KEEPS_ORDER, reason="a processor that needs barriers")

RANKS = 4
CALL = a_call(wire.BCAST, 3, 1000)


@pytest.fixture
def ranks() -> list[Places]:
    made = [Places(rank, RANKS) for rank in range(RANKS)]
    for each in made:
        each.enter([other.path for other in made])
    for each in made:
        each.close()
    return made


def message(n: int, nbytes: int = 60_000) -> Pieces:
    obj = np.full(nbytes, n, "u1"), "beside"
    return of_object(CALL, Codec(same_script=True).encode(obj))


def put(sender: Places, n: int, to: int) -> Message:
    packet = sender.put(message(n), to, [to])
    assert packet is not None
    assert is_of(packet, CALL)
    assert packet[1] == wire.PLACED
    assert length(packet) == length(message(n)[0])
    return packet


def test_another_process_reads_it(ranks: list[Places]) -> None:
    packets = [put(ranks[0], n, 1) for n in range(_TURNS)]

    def read() -> None:
        for n, packet in enumerate(packets):
            assert bytes(ranks[1].fetch(packet, 0)) == bytes(joined(message(n)))

    assert os.waitpid(fork(read), 0)[1] == 0
    for n, packet in enumerate([put(ranks[0], n, 1) for n in range(_TURNS)]):
        assert bytes(ranks[1].fetch(packet, 0)) == bytes(joined(message(n)))


def test_what_was_not_read_stays(ranks: list[Places]) -> None:
    """As where a signal's handler raises in the receiver before it reads."""
    packets = [put(ranks[0], n, 1) for n in range(_TURNS)]
    for _ in range(2 * _TURNS):
        assert ranks[0].put(message(99), 1, [1]) is None
    assert bytes(ranks[2].fetch(put(ranks[0], 7, 2), 0)) == bytes(joined(message(7)))
    for n, packet in enumerate(packets[1:], 1):
        assert bytes(ranks[1].fetch(packet, 0)) == bytes(joined(message(n)))
    for n in range(20):  # the other places go on
        for _ in range(2):
            placed = ranks[0].put(message(n), 1, [1])
            if placed is not None:
                assert bytes(ranks[1].fetch(placed, 0)) == bytes(joined(message(n)))
    assert bytes(ranks[1].fetch(packets[0], 0)) == bytes(joined(message(0)))


def test_all_have_to_read(ranks: list[Places]) -> None:
    others = [1, 2, 3]
    packets = [ranks[0].put(message(n), 0, others) for n in range(_TURNS)]
    for packet in packets:
        assert packet is not None
        for rank in (1, 3):
            ranks[rank].fetch(packet, 0)
    assert ranks[0].put(message(9), 0, others) is None
    for n, packet in enumerate(packets):
        assert packet is not None
        assert bytes(ranks[2].fetch(packet, 0)) == bytes(joined(message(n)))


def test_random_calls(ranks: list[Places]) -> None:
    choose = random.Random(4)
    waiting: list[tuple[int, int, int, Message, list[int]]] = []
    placed = 0
    for n in range(3000):
        sender = choose.randrange(RANKS)
        to = choose.randrange(RANKS)
        readers = [to] if to != sender else [rank for rank in range(RANKS) if rank != sender]
        nbytes = choose.randrange(7000, 65_000)
        packet = ranks[sender].put(message(n % 256, nbytes), to, readers)
        if packet is not None:
            placed += 1
            waiting.append((n % 256, nbytes, sender, packet, [*readers]))
        while waiting and (packet is None or choose.random() < 0.5):
            known, long, whose, there, left = waiting[-1 if choose.random() < 0.3 else 0]
            reader = left.pop()
            got = ranks[reader].fetch(there, whose)
            assert bytes(got) == bytes(joined(message(known, long)))
            waiting = [each for each in waiting if each[-1]]
            if packet is None:
                break
    assert placed > 2000


def test_threads_do_not_share_a_place(ranks: list[Places]) -> None:
    wrong: list[Any] = []
    placed: list[int] = []

    def use(n: int) -> None:
        for _ in range(300):
            packet = ranks[0].put(message(n), 1, [1])
            if packet is not None:
                placed.append(n)
                if bytes(ranks[1].fetch(packet, 0)) != bytes(joined(message(n))):
                    wrong.append(n)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(placed) > 100


def test_too_long(ranks: list[Places]) -> None:
    assert ranks[0].put(message(1, _PLACE), 1, [1]) is None
    packet = ranks[0].put(message(1, 1 << 16), 1, [1])
    assert packet is not None
    assert len(ranks[1].fetch(packet, 0)) > 1 << 16


def test_nothing_is_open_once_all_have_mapped_it(ranks: list[Places]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    more = [Places(rank, RANKS) for rank in range(RANKS)]
    assert len(os.listdir("/proc/self/fd")) == before + RANKS
    for each in more:
        each.enter([other.path for other in more])
    for each in more:
        each.close()
    assert len(os.listdir("/proc/self/fd")) == before
    maps = Path("/proc/self/maps").read_text().count("memfd:fsexchange")
    more.clear()
    del each
    assert Path("/proc/self/maps").read_text().count("memfd:fsexchange") == maps - RANKS**2


def test_memory_that_the_kernel_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuses)
        with pytest.raises(OSError, match="refused"):
            Places(0, RANKS)
    assert len(os.listdir("/proc/self/fd")) == before
    with monkeypatch.context() as patch:
        patch.setattr(mapping, "_MOST_MAPPINGS", 0)
        made = Places(0, 1)
        with pytest.raises(OSError, match="maps no more"):
            made.enter([made.path])
        made.close()
    assert len(os.listdir("/proc/self/fd")) == before


def refuses(*_: Any) -> int:
    raise OSError("refused")


def test_interrupted_at_any_place(ranks: list[Places]) -> None:
    """What was interrupted may be lost, and its place; what is read is right."""
    from .test_slab import interrupt

    choose = random.Random(5)
    for n in range(300):
        packets: list[Message | None] = []
        work = partial(packets.extend, map(ranks[0].put, [message(n % 256)], [1], [[1]]))
        interrupt(choose.uniform(1e-6, 1e-4), work)
        for packet in packets:
            if packet is not None:
                got: list[Message] = []
                fetch = partial(got.extend, map(ranks[1].fetch, [packet], [0]))
                interrupt(choose.uniform(1e-6, 1e-4), fetch)
                for each in got:
                    assert bytes(each) == bytes(joined(message(n % 256)))
