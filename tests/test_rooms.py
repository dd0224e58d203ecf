"""Rooms: what one process writes in shared memory, others take, and nothing stays."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import FileConnector
from fsexchange.filesystem.capacity import free_memory
from fsexchange.filesystem.faults import Filler
from fsexchange.mpi import room as module
from fsexchange.mpi.room import (
    KEPT_PART,
    PAGE,
    HostRoom,
    OwnRoom,
    StoreRoom,
    content,
    enter,
    pages,
    span,
    within,
)

from .processes import fork, lacking, little_memory, python

MEGA = 1 << 20


def taken(room: Any, at: int, nbytes: int) -> bytes:
    return bytes(room.take(at, nbytes))


def pieces(seed: int, nbytes: int) -> list[tuple[int, bytes]]:
    """Return pieces of all lengths that make up so many bytes, in any order."""
    rng = random.Random(seed)
    made, at = [], 0
    while at < nbytes:
        length = min(nbytes - at, rng.choice([1, 63, 4096, 5000, 70_000, 300_001, MEGA]))
        made.append((at, rng.randbytes(length)))
        at += length
    rng.shuffle(made)
    return made


def whole(parts: list[tuple[int, bytes]]) -> bytes:
    return b"".join(data for _, data in sorted(parts))


def raising(error: type[BaseException], at: int, real: Any) -> Any:
    """Return a function that does what the real one does, but raises in one of its calls."""
    calls = itertools.count(1)

    def call(*args: Any) -> Any:
        if next(calls) == at:
            raise error
        return real(*args)

    return call


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    HostRoom.forget()
    yield
    HostRoom.forget()


def _still_reads(memory: Any, waits: int) -> None:
    """In a child."""
    os.read(waits, 1)
    assert bytes(memory) == b"x" * MEGA


def _has_nothing() -> None:
    """In a child."""
    files = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    assert not [each for each in files if "memfd" in each], files


@pytest.fixture(params=["copied into place", "written", "without userfaultfd"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without userfaultfd":

        class Refused:
            def __init__(self) -> None:
                raise PermissionError

        monkeypatch.setattr(module, "Filler", Refused)
    return str(request.param)


def test_processes_fill_one_room_at_the_same_time(way: str, tmp_path: Path) -> None:
    parts = pieces(1, 12 * MEGA)
    room = HostRoom.make(12 * MEGA)
    connector: Any = None  # which only files need

    def fill(n: int) -> None:
        mine = enter(room.place, room.nbytes, connector)
        mine.fill(parts[n::3], alone=way == "written")
        mine.close()

    children = [fork(partial(fill, n)) for n in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3
    assert taken(room, 0, room.nbytes) == whole(parts)
    assert bytes(room.memory) == whole(parts)
    room.close()


def test_what_is_taken_is_the_takers_own() -> None:
    room = HostRoom.make(3 * MEGA)
    room.fill([(0, b"x" * 3 * MEGA)])
    one, other = room.take(0, 3 * MEGA), room.take(PAGE, MEGA)
    room.close()
    one[:5] = other[:5] = b"hello"
    one[PAGE] = 7
    assert bytes(one[:6]) == b"hellox"
    assert bytes(other[:6]) == b"hellox"


def test_pages_that_are_there_are_written_over(way: str) -> None:
    """Another rank may have had the kernel give them."""
    parts = pieces(2, 5 * MEGA)
    room = HostRoom.make(5 * MEGA)
    room.reserve(MEGA + 1, 3 * MEGA)
    room.fill(parts, alone=way == "written")
    assert taken(room, 0, 5 * MEGA) == whole(parts)
    room.close()


def test_filler_stops_where_a_page_is() -> None:
    try:
        filler = Filler()
    except OSError:
        lacking("userfaultfd for shared memory")
    room = HostRoom.make(MEGA)
    data = np.arange(MEGA, dtype="u1")
    room.memory[10 * PAGE] = 99
    address = room.memory.ctypes.data
    assert filler.fill(address, data.ctypes.data, MEGA) == 10 * PAGE
    assert filler.fill(address, data.ctypes.data, MEGA) == 0
    assert bytes(room.memory[: 10 * PAGE]) == bytes(data[: 10 * PAGE])
    assert (room.memory[10 * PAGE], room.memory[-1]) == (99, 0)
    filler.close()
    room.close()


def keeps(nbytes: int) -> int:
    """Have this process keep a room of so many bytes, and return the number of its file."""
    room = HostRoom.make_again(nbytes)
    room.fill([(0, b"x" * nbytes)])
    number = os.fstat(room.fd).st_ino
    room.keep()
    room.close()
    return number


def test_memory_that_nobody_has_is_used_again() -> None:
    number = keeps(5 * MEGA)
    room = HostRoom.make_again(5 * MEGA - PAGE)
    assert os.fstat(room.fd).st_ino == number
    room.fill([(0, b"y" * MEGA), (MEGA, b"z" * (4 * MEGA - PAGE))])
    assert bytes(room.memory) == taken(room, 0, 5 * MEGA - PAGE)
    assert bytes(room.memory) == b"y" * MEGA + b"z" * (4 * MEGA - PAGE)
    room.keep()
    room.close()
    room = HostRoom.make_again(5 * MEGA)
    assert os.fstat(room.fd).st_ino == number
    room.close()  # it was not said that all have entered it
    room = HostRoom.make_again(5 * MEGA)
    assert os.fstat(room.fd).st_ino != number
    room.close()


def test_a_small_array_does_not_keep_the_memory_of_a_large_one() -> None:
    number = keeps(20 * MEGA)
    room = HostRoom.make_again(MEGA)
    assert os.fstat(room.fd).st_ino == number
    assert os.fstat(room.fd).st_blocks * 512 == MEGA
    room.fill([(0, b"y" * MEGA)])
    assert bytes(room.memory) == taken(room, 0, MEGA) == b"y" * MEGA
    room.keep()
    room.close()
    room = HostRoom.make_again(2 * MEGA)
    room.fill([(0, b"z" * 2 * MEGA)])
    assert bytes(room.memory) == taken(room, 0, 2 * MEGA) == b"z" * 2 * MEGA
    room.close()


@pytest.mark.parametrize("whose", ["its maker's", "another's", "a child's"])
def test_memory_that_somebody_has_is_not_used_again(whose: str) -> None:
    room = HostRoom.make_again(MEGA)
    room.fill([(0, b"x" * MEGA)])
    with contextlib.closing(HostRoom.enter(room.place, MEGA)) as other:
        had = [(room if whose == "its maker's" else other).take(0, MEGA)]
    room.keep()
    room.close()
    waits, go_on = os.pipe()
    child = 0
    if whose == "a child's":
        child = fork(lambda: _still_reads(had[0], waits))
        had.clear()
    room = HostRoom.make_again(MEGA)
    room.fill([(0, b"y" * MEGA)], alone=True)
    assert [bytes(each) for each in had] == [b"x" * MEGA] * len(had)
    os.write(go_on, b".")
    assert not child or os.waitpid(child, 0)[1] == 0
    room.close()
    os.close(waits)
    os.close(go_on)


@pytest.mark.parametrize("limit", ["its own", "the memory"])
def test_a_large_room_is_not_kept(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if limit == "its own":
        monkeypatch.setattr(module, "KEPT", MEGA)
    else:
        monkeypatch.setattr(module, "memory_to_share", lambda: MEGA / KEPT_PART)
    before = len(os.listdir("/proc/self/fd"))
    keeps(MEGA)
    assert len(os.listdir("/proc/self/fd")) > before
    keeps(MEGA + PAGE)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["fcntl.fcntl", "_opened_again", "memory_to_share"])
def test_nothing_is_left_of_one_that_could_not_be_made(
    where: str, error: type[BaseException], is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As few descriptors are left, or by the handler of a signal."""
    before = len(os.listdir("/proc/self/fd"))
    for n in range(1, 4):
        if is_kept:
            keeps(MEGA)
        call = raising(error, n, attrgetter(where)(module))
        with monkeypatch.context() as patched, contextlib.suppress(error):
            patched.setattr(f"{module.__name__}.{where}", call)
            HostRoom.make_again(MEGA).close()
        HostRoom.forget()
        assert len(os.listdir("/proc/self/fd")) == before, n


def test_a_child_keeps_nothing() -> None:
    keeps(MEGA)
    assert os.waitpid(fork(_has_nothing), 0)[1] == 0


def test_own_room() -> None:
    parts = pieces(3, 2 * MEGA)
    room = OwnRoom(2 * MEGA)
    room.reserve(0, 2 * MEGA)
    room.fill(parts)
    got = room.take(0, 2 * MEGA)
    room.close()
    assert bytes(got) == whole(parts)


def test_room_in_a_file(base_dir: Path) -> None:
    parts = pieces(4, 2 * MEGA)
    with FileConnector(base_dir / "store") as connector:
        room = StoreRoom.make(connector, 2 * MEGA)
        other = enter(room.place, 2 * MEGA, connector)
        room.fill(parts[::2])
        other.fill(parts[1::2])
        other.close()  # the maker removes it
        assert taken(room, 0, 2 * MEGA) == whole(parts)
        assert taken(room, PAGE, 5) == whole(parts)[PAGE : PAGE + 5]
        room.close()
        found = [name for _, _, names in os.walk(base_dir / "store") for name in names]
        assert [name for name in found if not name.startswith(".")] == []


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(OSError, match="no .* bytes to share"):
        HostRoom.make(free_memory() + (1 << 30))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="."):
        HostRoom.make(1 << 62)
    assert len(os.listdir("/proc/self/fd")) == before


def test_control_group_counts() -> None:
    most = 256 * MEGA
    with little_memory(256) as before:
        said = int(python("free_memory", before=before).stdout)
    assert 0 < said < most <= free_memory()


def test_places_in_memory() -> None:
    assert [pages(n) for n in (0, 1, PAGE, PAGE + 1)] == [0, PAGE, PAGE, 2 * PAGE]
    assert list(content([b"abc", b"", b"de"], 7)) == [(7, b"abc"), (10, b""), (10, b"de")]
    message: list[Any] = [b"abc", b"", b"defg"]
    cuts = [list(within(content(message, 7), start, stop)) for start, stop in ((0, 9), (9, 12))]
    assert cuts == [[(7, b"ab")], [(9, b"c"), (10, b"de")]]
    memory = np.zeros(1000, "u1")
    array = memory.view("f8").reshape(5, 25)
    for part in (array, array[1:3], array[:, 4:7], array[::2, ::5], array.T[3:, 1]):
        start, stop = span(part, memory)
        part[...] = 1
        assert memory[start:stop].any()
        assert np.flatnonzero(memory)[[0, -1]].tolist() == [start + 6, stop - 1]
        memory[:] = 0
