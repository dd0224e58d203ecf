"""Copies in a host's memory: one for all its processes, of what cannot be mapped where it is."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import FileConnector, FileKey, MissingObjectError, Store, gc
from fsexchange.connector import hostcache
from fsexchange.connector.hostcache import HostCache
from fsexchange.filesystem import files

from .jobs import all_pass, mpirun, needs_mpi, passes, ranks
from .processes import fork, python, small_tmpfs
from .test_waiting import change
from .victims import Victims

MIB = 1 << 20
NAME = "00c0ffee00c0ffee"


@pytest.fixture(autouse=True)
def base(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the copies are, in place of /dev/shm itself."""
    (shm_dir / "host").mkdir()
    monkeypatch.setattr(hostcache, "BASE", f"{shm_dir}/host")
    return hostcache.BASE


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store on a file system that cannot be trusted with mappings."""
    with Store(tmp_path / "store") as store:
        change(monkeypatch, store, mappable=False)
        yield store


@pytest.fixture
def copies(store: Store, base: str) -> Iterator[HostCache]:
    yield (made := kept(store))
    made.close()
    assert os.listdir(base) == []


def kept(store: Store, limit: int | None = None) -> HostCache:
    made = HostCache(store.store_dir, NAME, limit)
    store.connector.keep_copies(made)
    return made


def mapping(data: Any) -> str:
    """Return the path of the file of which this process has a buffer mapped."""
    address = np.frombuffer(data, np.uint8).ctypes.data
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(n, 16) for n in line.split()[0].split("-"))
            if begin <= address < end:
                return line.split(maxsplit=5)[5].strip() if len(line.split()) > 5 else ""
    raise AssertionError("not mapped")


def copied(copies: HostCache) -> list[str]:
    """Return the copies that there are, which are whole."""
    found = [name for name in os.listdir(copies.path) if name[0] != "." and name != "lock"]
    return sorted(name.replace("-", "/") for name in found)


def put(store: Store, count: int, nbytes: int = MIB) -> list[FileKey]:
    return [store.connector.put(bytes([n + 1]) * nbytes) for n in range(count)]


def test_mapped_by_all_and_changed_by_none(store: Store, copies: HostCache) -> None:
    (key,) = put(store, 1, 3 * MIB)
    one, other = store.connector.get(key), store.connector.get(key)
    assert one == other == b"\1" * 3 * MIB
    assert mapping(one) == mapping(other) == f"{copies.path}/{key.filename.replace('/', '-')}"
    assert isinstance(one, memoryview)
    one[:5] = b"mine!"
    assert other == store.connector.get(key) == b"\1" * 3 * MIB
    assert copied(copies) == [key.filename]
    python("get_a_copy", store.store_dir, str(key), hostcache.BASE, NAME)


@pytest.mark.parametrize("markers", [False, True])
def test_objects_of_a_store(markers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(FileConnector(tmp_path / "store", markers=markers)) as store:
        change(monkeypatch, store, mappable=False)
        copies = kept(store)
        arrays = [np.arange(n << 17) for n in (1, 2, 3)]
        keys = store.put_batch(arrays)
        for _ in range(2):
            for got, array in zip(store.get_batch(keys), arrays, strict=True):
                assert np.array_equal(got, array)
                assert got.flags.writeable
        assert copied(copies) == sorted(key.filename for key in keys)
        assert np.array_equal(store.get(store.put(arrays[1], name="named")), store.get("named"))
        copies.close()
        assert np.array_equal(store.get(keys[0]), arrays[0])


def test_what_is_small_or_mapped_is_not_copied(
    store: Store, copies: HostCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small,) = put(store, 1, MIB - 1)
    assert store.connector.get(small) == b"\1" * (MIB - 1)
    (large,) = put(store, 1)
    change(monkeypatch, store, mappable=True)
    assert store.connector.get(large) == b"\1" * MIB
    assert not os.path.exists(copies.path)


def test_evicted_is_gone(store: Store, copies: HostCache) -> None:
    """Whoever evicts it: the copy alone is never shown."""
    first, second = put(store, 2)
    views = [store.connector.get(key) for key in (first, second)]
    assert len(copied(copies)) == 2
    os.unlink(store.connector.path(first))  # as another host does
    assert store.connector.get(first) is None
    store.evict(second)
    assert store.get(second, default="gone") == "gone"
    with pytest.raises(MissingObjectError):
        store.get(second)
    assert copied(copies) == [first.filename]  # the memory of the other is given back
    assert views == [b"\1" * MIB, b"\2" * MIB]


def test_what_is_set_is_not_mistaken(store: Store, copies: HostCache) -> None:
    """An object that may be set again is not copied; one of `put` that is set again is read."""
    connector = store.connector
    key = connector.new_key()
    for n in (1, 2):
        connector.set(key, bytes([n]) * MIB)
        assert connector.get(key) == bytes([n]) * MIB
        connector.set(FileKey("plain"), bytes([n]) * MIB)
        assert connector.get(FileKey("plain", MIB)) == bytes([n]) * MIB
    assert not os.path.exists(copies.path)
    (key,) = put(store, 1)
    before = connector.get(key)
    connector.set(key, b"\7" * MIB)
    os.utime(connector.path(key), (1, 1))  # a clock that stands is as good as another
    assert connector.get(key) == connector.get(key) == b"\7" * MIB
    assert before == b"\1" * MIB
    connector.set(key, b"\7" * 2 * MIB)
    assert connector.get(key) == b"\7" * 2 * MIB


def test_least_recently_used_goes_first(store: Store) -> None:
    copies = kept(store, 3 * MIB)
    keys = put(store, 4)
    views = [store.connector.get(key) for key in keys[:3]]
    assert store.connector.get(keys[0]) == views[0]
    views.append(store.connector.get(keys[3]))
    assert copied(copies) == sorted(keys[n].filename for n in (0, 2, 3))
    (large,) = put(store, 1, 2 * MIB)
    assert store.connector.get(large) == b"\1" * 2 * MIB
    assert copied(copies) == sorted([keys[3].filename, large.filename])
    (larger,) = put(store, 1, 4 * MIB)
    assert store.connector.get(larger) == b"\1" * 4 * MIB
    assert copied(copies) == sorted([keys[3].filename, large.filename])
    assert views == [bytes([n + 1]) * MIB for n in range(4)]
    copies.close()


def test_a_host_without_memory(
    store: Store, copies: HostCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies give theirs first; then objects are read as before."""
    first, second = put(store, 2)
    view = store.connector.get(first)
    monkeypatch.setattr(hostcache, "memory_to_share", lambda: 1000)
    assert store.connector.get(second) == b"\2" * MIB
    assert copied(copies) == []
    monkeypatch.undo()
    assert view == b"\1" * MIB


@pytest.mark.parametrize("megabytes", [2, 16])
def test_a_full_tmpfs(megabytes: int, store: Store, base: str) -> None:
    """Of 16 MiB a quarter is enough for 3 MiB, of 2 MiB nothing is."""
    (key,) = put(store, 1, 3 * MIB)
    before = small_tmpfs(Path(base), megabytes)
    done = python("get_a_copy", store.store_dir, str(key), base, NAME, before=before)
    assert done.stdout == f"{3 * MIB} \1\1\1\1 {'copied' if megabytes > 2 else 'read'}\n"


def test_a_tmpfs_that_others_have_filled(store: Store, copies: HostCache) -> None:
    """The kernel says so when memory is reserved, not by SIGBUS."""
    keys = put(store, 2)
    store.connector.get(keys[0])
    for number in (28, 12):  # ENOSPC, ENOMEM

        def full(*_: object, number: int = number) -> int:
            ctypes.set_errno(number)
            return -1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "fallocate", full)
            assert store.connector.get(keys[1]) == b"\2" * MIB
            assert store.connector.get(keys[0]) == b"\1" * MIB
        assert copied(copies) == [keys[0].filename]


def test_no_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("/nowhere", "/proc"):
        monkeypatch.setattr(hostcache, "BASE", place)
        copies = kept(store)
        (key,) = put(store, 1)
        assert store.connector.get(key) == store.connector.get(key) == b"\1" * MIB
        assert copies.closed
        copies.close()


@pytest.mark.slow
def test_a_killed_reader_is_no_obstacle(store: Store, base: str, victims: Victims) -> None:
    """Wherever it is killed: the next one reads the object, and clears in the end."""
    (key,) = put(store, 1, 9 * MIB)
    args = "get_a_copy", store.store_dir, str(key), base, NAME
    calls = victims.system_calls(Path(base) / "../log", *args)
    assert {"fallocate", "sendfile", "utimensat"} <= {name for name, _ in calls}
    for call, occurrence in calls:
        victims.kill(call, occurrence, *args)
        copies = kept(store)
        for _ in range(2):
            data = store.connector.get(key)
            assert data == b"\1" * 9 * MIB
            assert mapping(data).startswith(copies.path), (call, occurrence)
        assert copied(copies) == [key.filename]
        copies.close()
        assert os.listdir(base) == [], (call, occurrence)


def test_what_a_killed_owner_left_goes_with_the_next(
    store: Store, base: str, victims: Victims
) -> None:
    (key,) = put(store, 1)
    args = "get_a_copy", store.store_dir, str(key), base
    victims.kill("sendfile", 1, *args, "0123456789abcdef")
    (left,) = gc(base)
    assert left.state == "dead"
    copies = kept(store)
    store.connector.get(key)
    assert os.listdir(base) == [os.path.basename(copies.path)]
    copies.close()


def test_nobody_waits_for_a_stopped_reader(
    store: Store, base: str, victims: Victims, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostcache, "_STALLED", 0.2)
    (key,) = put(store, 1)
    victims.start(
        ["-o", "/dev/null", "-e", "inject=sendfile:signal=STOP:when=1"],
        *("get_a_copy", store.store_dir, str(key), base, NAME),
    )
    copies = kept(store)
    deadline = time.monotonic() + 30
    while not (os.path.isdir(copies.path) and copied(copies)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    data = store.connector.get(key)
    assert data == b"\1" * MIB
    assert not mapping(data).startswith(copies.path)
    os.kill(victims.pid, signal.SIGCONT)
    assert victims.finish() == 0
    copies.close()


def test_a_handler_in_the_middle(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the object that the frames below it are just reading."""
    monkeypatch.setattr(hostcache, "_STALLED", 0.1)
    copies = kept(store)
    (key,) = put(store, 1)
    inner: list[Any] = []
    sendfile = os.sendfile

    def reading(*args: int) -> int:
        if not inner:
            inner.append(b"")
            inner.append(store.connector.get(key) or b"none")
        return sendfile(*args)

    monkeypatch.setattr(os, "sendfile", reading)
    assert store.connector.get(key) == inner[1] == b"\1" * MIB
    copies.close()


def test_interrupted(store: Store, copies: HostCache, monkeypatch: pytest.MonkeyPatch) -> None:
    (key,) = put(store, 1)

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "sendfile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.connector.get(key)
    assert copied(copies) == []
    monkeypatch.undo()


def test_an_object_that_cannot_be_read(
    store: Store, copies: HostCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = put(store, 1)

    def fail(*_: object) -> int:
        raise OSError(5, "the server is away")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sendfile", fail)
        assert store.connector.get(key) == b"\1" * MIB  # read, which may work
        assert copied(copies) == []
        patch.setattr(os, "sendfile", lambda *_: 0)
        assert store.connector.get(key) == b"\1" * MIB
        assert copied(copies) == []


def test_a_forked_child_reads_for_itself(store: Store, copies: HostCache) -> None:
    (key,) = put(store, 1)

    def child() -> None:
        data = store.connector.get(key)
        assert data == b"\1" * MIB
        assert not mapping(data).startswith(copies.path)

    for _ in range(2):  # before the copy is made, and after
        assert os.waitpid(fork(child), 0)[1] == 0
        assert mapping(store.connector.get(key)).startswith(copies.path)


def test_its_owner_is_gone(store: Store, copies: HostCache) -> None:
    keys = put(store, 2)
    view = store.connector.get(keys[0])
    FileConnector(copies.path).close(clear=True)
    assert [store.connector.get(key) for key in keys] == [b"\1" * MIB, b"\2" * MIB]
    assert view == b"\1" * MIB


def test_the_first_ones_stay(store: Store, copies: HostCache) -> None:
    (key,) = put(store, 1)
    other = HostCache(store.store_dir, "1" * 16)
    handle = store.connector.from_config(store.connector.config())
    handle.directory._policy = store.connector.directory.policy
    handle.keep_copies(other)
    assert mapping(handle.get(key)).startswith(copies.path)
    copies.close()
    assert "host" not in mapping(handle.get(key))
    handle.keep_copies(other)
    assert mapping(store.connector.get(key)).startswith(other.path)
    other.close()


@needs_mpi
@pytest.mark.parametrize("n", [1, 2, 4])
def test_on_every_rank(n: int, shm_dir: Path) -> None:
    bodies = ["read_once", "limits", "evicted", "of_a_part", "handles", "wrong_limits"]
    all_pass(n, "copies", bodies, shm_dir)
    assert not left()


@needs_mpi
@pytest.mark.parametrize("n", [2, 4])
def test_a_full_host(n: int, shm_dir: Path) -> None:
    passes(n, "copies", "full", shm_dir, before=small_tmpfs(shm_dir / "small", 8))


@needs_mpi
@pytest.mark.parametrize("n", [2, 4])
def test_an_aborted_job_leaves_nothing(n: int, shm_dir: Path) -> None:
    status, out = mpirun(*ranks(n, "abort", shm_dir, module="copies"))
    assert status == 7, out
    assert not (shm_dir / "store").exists()
    assert not left()


@needs_mpi
@pytest.mark.parametrize("n", [2, 4])
def test_what_a_killed_job_leaves_goes_with_the_next(n: int, shm_dir: Path) -> None:
    """Its first rank is killed while it reads."""
    status, out = mpirun(*ranks(n, "killed", shm_dir, module="copies"))
    assert status != 0, out
    (left,) = os.listdir(shm_dir / "host")
    passes(n, "copies", "after_a_killed_job", shm_dir, left)
    assert not os.listdir(shm_dir / "host")


def left() -> list[str]:
    """Return the directories of copies in /dev/shm, of tests alone."""
    found = []
    for path in Path("/dev/shm").glob("fsexchange-" + "[0-9a-f]" * 16):
        if (path / "lock").exists():
            found.append(path.name)
    return found
