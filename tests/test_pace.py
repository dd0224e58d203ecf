"""Which of two ways is the faster one: found, and found again when that changes."""

from __future__ import annotations

import pytest

from fsexchange.mpi import pace as module
from fsexchange.mpi.pace import Pace
from fsexchange.mpi.packets import _native

QUICK, SLOW = 1.0, 10.0

# What time it is: a busy machine could turn round which of two ways is slow.
now = [0.0]


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])


def ways(pace: Pace, slow: bool, count: int, nbytes: int = 1 << 20) -> list[bool]:
    """Call so often, where one of the ways is slow, and return which were taken."""
    taken = []
    for _ in range(count):
        taken.append(pace.way(nbytes))
        now[0] += SLOW if taken[-1] is slow else QUICK
    return taken


def test_the_faster_way_is_taken_once_both_were() -> None:
    for slow in (False, True):
        taken = ways(Pace(), slow, 31)
        assert taken[:6] == [False, True] * 3
        assert set(taken[7:]) == {not slow}


def test_the_other_way_is_tried_and_taken_once_it_is_faster() -> None:
    pace = Pace()
    ways(pace, True, 20)
    taken = ways(pace, False, 70)
    assert True in taken[:20]
    assert taken[20:].count(False) <= 2
    assert False in taken[20:]


def test_lengths_do_not_mix() -> None:
    pace = Pace()
    for _ in range(4):
        ways(pace, True, 5)
        ways(pace, False, 5, 1 << 16)
    assert ways(pace, True, 1) == [False]
    assert ways(pace, False, 1, (1 << 16) + 100) == [True]


def test_a_call_that_comes_late_decides_nothing() -> None:
    pace = Pace()
    ways(pace, True, 10)
    now[0] += 10 * SLOW
    assert not any(ways(pace, True, 5))


@pytest.mark.skipif(_native is None, reason="there is no C")
def test_a_copy_past_the_caches_is_a_copy() -> None:
    data = bytes(range(256)) * 40
    for at in range(70):
        for nbytes in (*range(0, 200, 7), 5000):
            memory = memoryview(bytearray(10_000))
            _native.copy_past(memory[at:], data[:nbytes])
            assert memory[at : at + nbytes] == data[:nbytes]
            assert not any(memory[:at])
            assert not any(memory[at + nbytes :])
    with pytest.raises(ValueError, match="longer than the memory"):
        _native.copy_past(memory, bytes(10_001))
    with pytest.raises(BufferError):
        _native.copy_past(memoryview(data), b"x")
