"""Store: any object in, small handles out, in threads and processes of every kind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fsexchange import (
    CorruptObjectError,
    FileConnector,
    FileKey,
    MissingObjectError,
    Ref,
    SerializationError,
    Store,
    StoreClosedError,
)
from fsexchange.serialize import deserialize, dumps
from fsexchange.store.cache import Cache
from fsexchange.store.names import Names

from .processes import python


@pytest.fixture(params=[{}, {"markers": True}], ids=["rename", "markers"])
def store(request: pytest.FixtureRequest, base_dir: Path) -> Iterator[Store]:
    with Store(FileConnector(base_dir / "store", **request.param)) as store:
        yield store
    assert not (base_dir / "store").exists()


OBJECTS: list[Any] = [
    None,
    0,
    "text",
    b"bytes",
    [1, {"a": None}],
    np.arange(10),
    np.ones((300, 1000)),
    {},
]


def test_get_returns_what_was_put(store: Store) -> None:
    for obj in OBJECTS:
        key = store.put(obj)
        for handle in (key, Ref[Any](store, key)):
            np.testing.assert_equal(store.get(handle), obj)
        assert type(store.get(key)) is type(obj)
        assert store.exists(key)
    keys = store.put_batch(OBJECTS)
    np.testing.assert_equal(store.get_batch(keys), OBJECTS)
    assert store.put_batch(iter(())) == []


def test_missing_is_an_error_unless_there_is_a_default(store: Store) -> None:
    key = store.put("x", name="mesh")
    store.evict(key)
    for handle in (key, "mesh", "never named", store.connector.new_key()):
        assert not store.exists(handle)
        assert store.get(handle, default=7) == 7
        assert store.get(handle, None) is None
        with pytest.raises(MissingObjectError) as caught:
            store.get(handle)
        assert isinstance(caught.value, LookupError)
        assert store.connector.store_dir in str(caught.value)
        assert (handle if isinstance(handle, str) else handle.filename) in str(caught.value)
    kept = store.put(1)
    assert store.get_batch([kept, key], default=None) == [1, None]
    with pytest.raises(MissingObjectError):
        store.get_batch([kept, key])


def test_what_is_got_is_ones_own(store: Store) -> None:
    key = store.put(np.zeros(1 << 18))
    mine, other = store.get(key), store.get(key)
    mine[:] = 1
    assert not other.any()
    assert not store.get(key).any()


def test_small_array_does_not_keep_the_memory_of_large_ones_beside_it(shm_dir: Path) -> None:
    """Where it is small beside them; among its like, arrays are views of one mapping."""
    path = str(shm_dir / "store")
    with Store(FileConnector(path)) as store:
        key = store.put({"small": np.arange(1000), "large": np.ones(1 << 18)})
        small = store.get(key)["small"]
        assert path not in Path("/proc/self/maps").read_text()
        store.evict(key)
        small += 1
        np.testing.assert_array_equal(small, np.arange(1, 1001))
        frozen = deserialize(dumps({"small": np.arange(1000), "large": np.ones(1 << 18)}))
        assert [array.flags.writeable for array in frozen.values()] == [False, False]
        alike = store.get(store.put([np.full(1000, n) for n in range(200)]))
        assert path in Path("/proc/self/maps").read_text()
        assert all((array == n).all() for n, array in enumerate(alike))


def test_what_cannot_be_stored_leaves_nothing(store: Store) -> None:
    with pytest.raises(SerializationError):
        store.put(threading.Lock(), name="lock")
    with pytest.raises(SerializationError):
        store.put_batch([1, threading.Lock()])
    assert "lock" not in store.names
    assert not [p for p in Path(store.connector.store_dir).rglob("*/*") if p.is_file()]


def test_changed_elements_are_noticed_by_a_checksum_alone(store: Store) -> None:
    array = np.zeros(100_000)
    for checksum in (False, True):
        key = store.put(array, checksum=checksum)
        with open(store.connector.path(key), "r+b") as file:
            file.seek(1000)
            file.write(b"\1")
        if checksum:
            with pytest.raises(CorruptObjectError):
                store.get(key)
        else:
            assert np.count_nonzero(store.get(key)) == 1


def test_wait_for_a_name_and_for_its_object(store: Store) -> None:
    def later() -> None:
        time.sleep(0.1)
        store.put([1], name="mesh")

    thread = threading.Thread(target=later)
    thread.start()
    store.wait("mesh", timeout=30)
    assert store.get("mesh") == [1]
    thread.join()
    with pytest.raises(TimeoutError, match="nothing was named 'other'"):
        store.wait("other", timeout=0.01)
    key = store.put(1)
    store.evict(key)
    with pytest.raises(MissingObjectError):
        store.wait(key)


def test_wait_for_a_name_and_for_its_object_shares_the_time(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the name took is not there for the object, which is yet to be set."""
    now = [100.0]
    monkeypatch.setattr("fsexchange.store.store.time.monotonic", lambda: now[0])
    asked: list[float | None] = []
    with Store(base_dir / "store") as store:
        store.names["mesh"] = store.connector.new_key()

        def wait_for_name(self: Names, name: str, timeout: float | None) -> None:
            asked.append(timeout)
            now[0] += 7

        def wait_for_object(self: FileConnector, key: FileKey, timeout: float | None) -> None:
            asked.append(timeout)

        monkeypatch.setattr(Names, "wait", wait_for_name)
        monkeypatch.setattr(FileConnector, "wait", wait_for_object)
        for timeout in (10, 5, None):
            store.wait("mesh", timeout)
        store.wait(store.connector.new_key(), 4)
    assert asked == [10, 3, 5, 0, None, None, 4]


def test_without_an_argument_it_is_private_and_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FSEXCHANGE_DIR", raising=False)
    with Store() as one, Store() as other:
        assert one.connector.store_dir != other.connector.store_dir
        path = Path(one.connector.store_dir)
        assert path.stat().st_mode & 0o777 == 0o700
        assert path.parent in (Path("/dev/shm"), Path(os.environ.get("TMPDIR", "/tmp")))
    assert not path.exists()


def test_environment_names_a_place_for_new_stores(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that share a profile share no store."""
    monkeypatch.setenv("FSEXCHANGE_DIR", str(base_dir / "place"))
    with Store() as store:
        with Store() as other:
            assert other.connector.store_id != store.connector.store_id
            assert Path(other.connector.store_dir).parent == base_dir / "place"
        assert store.get(store.put(1)) == 1
    assert not list((base_dir / "place").iterdir())


def test_environment_names_a_store_that_is_there(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSEXCHANGE_STORE", str(base_dir / "store"))
    with pytest.raises(StoreClosedError, match=r"no store at .*\$FSEXCHANGE_STORE"):
        Store()
    assert not (base_dir / "store").exists()
    with Store(base_dir / "store") as owner:
        with Store() as attached:
            key = attached.put(1)
        assert owner.get(key) == 1


def test_variables_are_expanded_or_refused(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shm_dir))
    monkeypatch.setenv("FSEXCHANGE_DIR", "~/place")
    with Store() as store:
        assert Path(store.connector.store_dir).parent == shm_dir / "place"
    for value in "$SCRATCH/place", "~no-such-user/place":
        monkeypatch.setenv("FSEXCHANGE_DIR", value)
        with pytest.raises(ValueError, match="nothing has expanded"):
            Store()


def test_small_shared_memory_is_left_alone(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with 64 MiB of it."""
    full = "/proc"  # has no free bytes at all
    out = python("find_a_default_directory", full, env={"TMPDIR": str(shm_dir)}).stdout
    assert out.startswith(f"{shm_dir}/fsexchange-")


def test_kept_for_later_processes(base_dir: Path) -> None:
    with Store(base_dir / "kept", clear=False) as store:
        store.put(np.arange(3), name="mesh/coarse")
    out = python("read_a_kept_store", base_dir / "kept").stdout
    assert out == "['mesh/coarse'] 3\n"
    Store(base_dir / "kept").connector.close(clear=True)


# ---- processes and threads -----------------------------------------------------------------------


def _double(store: Store, key: FileKey) -> FileKey:
    return store.put(2 * store.get(key))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_store_is_passed_to_processes(method: str, store: Store) -> None:
    key = store.put(np.ones(1000))
    with multiprocessing.get_context(method).Pool(2) as pool:
        jobs = pool.starmap_async(_double, [(store, key)] * 4, chunksize=1)
        keys = jobs.get(timeout=60)  # the job of a worker that dies never ends
        pool.close()
        pool.join()
    assert [store.get(k).sum() for k in keys] == [2000.0] * 4


def test_pickled_store_is_small_and_attaches(store: Store) -> None:
    assert len(pickle.dumps(store)) < 400
    clone = pickle.loads(pickle.dumps(store))
    assert clone.get(store.put(1)) == 1
    clone.close()
    assert store.get(store.put(1)) == 1
    store.close()
    with pytest.raises(StoreClosedError):
        pickle.loads(pickle.dumps(store))


def test_fork_while_other_threads_put_and_get(shm_dir: Path) -> None:
    python("fork_under_threads", shm_dir / "store")


def test_eight_threads_hammer_one_store_with_evictions(shm_dir: Path) -> None:
    """For 10 s: every get is right or MissingObjectError."""
    with Store(shm_dir / "store", cache=100_000) as store:
        stop = time.monotonic() + 10
        live: list[tuple[FileKey, int]] = [(store.put([0] * 50), 0)]
        problems: list[BaseException] = []
        counts = {"right": 0, "missing": 0}

        def work(seed: int) -> None:
            random = np.random.default_rng(seed)
            try:
                while time.monotonic() < stop:
                    n = int(random.integers(1000))
                    match n % 4:
                        case 0:
                            live.append((store.put([n] * 50), n))
                        case 1 if len(live) > 20:
                            store.evict(live.pop(n % 20)[0])
                        case _:
                            key, value = live[n % len(live)]
                            try:
                                assert store.get(key) == [value] * 50
                                counts["right"] += 1
                            except MissingObjectError:
                                counts["missing"] += 1
            except IndexError:
                work(seed + 100)  # the list shrank under us: the test's own race
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems
    assert counts["right"] > 1000


# ---- cache --------------------------------------------------------------------------------------


def test_cache_serves_copies_within_its_bounds(base_dir: Path) -> None:
    with Store(base_dir / "store", cache=5000) as store:
        key = store.put(np.zeros(100))
        mine = store.get(key)
        mine[:] = 7
        again = store.get(key)
        assert not again.any()  # of one's own
        again[:] = 8
        (Path(store.connector.store_dir) / key.filename).unlink()
        assert not store.get(key).any()  # from memory
        for n in range(10):
            store.get(store.put(np.full(100, n)))
        with pytest.raises(MissingObjectError):
            store.get(key)  # had to go
        kept = store.put(1)
        store.get(kept)
        store.evict(kept)
        with pytest.raises(MissingObjectError):
            store.get(kept)
        future = store.future()
        future.set_result(1)
        assert store.get(future.ref) == 1
        assert pickle.loads(pickle.dumps(store)).get(future.ref) == 1


def test_key_of_another_kind_is_evicted_from_the_cache(base_dir: Path) -> None:
    with Store(base_dir / "store", cache=5000) as store:
        keys = [store.put(n) for n in range(2)]
        alike: list[Any] = [SimpleNamespace(**key._asdict()) for key in keys]  # has no hash
        assert [store.get(key) for key in alike] == [0, 1]
        store.evict(alike[0])
        store.evict_batch(alike[1:])
        assert store.get_batch(keys, default=None) == [None, None]


def test_cache_is_bounded_in_bytes() -> None:
    cache = Cache(1000)
    keys = [FileKey(f"{n:016x}/0", 300) for n in range(5)]
    for key in keys:
        cache.put(key, bytes(300))
        cache.get(keys[0])
    assert [cache.get(key) is not None for key in keys] == [True, False, False, True, True]
    cache.put(keys[1], bytes(1001))
    assert cache.get(keys[1]) is None
    cache.put(FileKey("promise"), b"x")
    assert cache.get(FileKey("promise")) is None  # may be set again
    cache.put(keys[0], bytes(10))
    assert cache._nbytes == 610
    for key in keys:
        cache.discard(key)
    assert cache._nbytes == 0


def test_store_without_a_cache_has_none(base_dir: Path) -> None:
    with Store(base_dir / "store") as store:
        key = store.put(1)
        store.get(key)
        (Path(store.connector.store_dir) / key.filename).unlink()
        assert not store.exists(key)
        assert store.get(key, default=None) is None


def test_cache_does_not_hide_that_the_store_was_closed(base_dir: Path) -> None:
    store = Store(base_dir / "store", cache=1000)
    key = store.put(1)
    assert store.get(key) == 1
    store.close()
    with pytest.raises(StoreClosedError):
        store.get(key)


def test_forked_child_has_a_cache_of_its_own(shm_dir: Path) -> None:
    """Whatever thread held the lock of its parent's."""
    python("fork_under_a_lock", shm_dir / "store", timeout=20)


def test_cache_in_a_signal_handler(shm_dir: Path) -> None:
    """The handler runs between any two lines of the cache, in the thread that is in them."""
    python("signal_a_cache", shm_dir / "store", "5", timeout=40)


def test_cache_that_another_thread_uses_is_done_without(base_dir: Path) -> None:
    """Nobody waits for it, and what was evicted meanwhile never comes back."""
    with Store(base_dir / "store", cache=5000) as store:
        key, other = store.put(1), store.put(2)
        cache = store._cache
        assert cache is not None
        assert store.get(key) == 1
        with cache._lock:
            assert store.get(key) == 1
            assert store.get(other) == 2
            store.evict(key)
            assert cache.get(key) is None
        assert cache.get(key) is None
        assert cache.get(other) is None
        with pytest.raises(MissingObjectError):
            store.get(key)


def test_stores_with_a_cache_leave_nothing_in_memory(base_dir: Path) -> None:
    def use() -> None:
        with Store(base_dir / "own", cache=1000) as own:
            own.get(own.put(1))
        Store(base_dir / "store", cache=1000).get(key)  # attached, and dropped without a close

    with Store(base_dir / "store") as store:
        key = store.put(1)
        for _ in range(10):
            use()
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(300):
            use()
        gc.collect()
        assert len(gc.get_objects()) - before < 150


def test_name_that_moves_on_is_never_missing(base_dir: Path) -> None:
    """A writer names a new object and evicts the old one; readers find one or the other."""
    with Store(base_dir / "store") as store:
        old = store.put(-1, name="current")
        done = threading.Event()

        def move_on(old: FileKey = old) -> None:
            for n in range(500):
                new = store.put(n, name="current")
                store.evict(old)
                old = new
            done.set()

        thread = threading.Thread(target=move_on)
        thread.start()
        seen = {store.get("current") for _ in iter(done.is_set, True)}
        thread.join()
        assert store.get("current") == 499
        assert len(seen) > 1


def test_object_that_cannot_be_named_is_not_left(base_dir: Path) -> None:
    with Store(base_dir / "store") as store:
        for bad in ("", "a\tb", "x" * 300):
            with pytest.raises(ValueError, match="name"):
                store.put("x", name=bad)
        (Path(store.connector.store_dir) / ".fsexchange-names").rmdir()
        (Path(store.connector.store_dir) / ".fsexchange-names").touch()
        with pytest.raises(OSError, match="cannot write"):
            store.put("x", name="good")
        left = [p for p in Path(store.connector.store_dir).rglob("*/*") if p.name[0] != "."]
        assert not left
        (Path(store.connector.store_dir) / ".fsexchange-names").unlink()
        (Path(store.connector.store_dir) / ".fsexchange-names").mkdir()


def test_ref_of_another_store_is_refused(base_dir: Path) -> None:
    with Store(base_dir / "one") as one, Store(base_dir / "other") as other:
        ref = one.ref(1)
        for use in (other.get, other.exists, other.evict, other.wait):
            with pytest.raises(ValueError, match="another store"):
                use(ref)
        assert ref.get() == 1


def test_every_public_name_has_an_example() -> None:
    """Which doctest runs. In a process of its own, as it initialises MPI."""
    pytest.importorskip("mpi4py")
    python("look_for_examples")


class CountingConnector(FileConnector):
    """A connector of a user's."""


class CountingStore(Store):
    """A store of a user's."""


def test_subclasses_arrive_as_themselves(base_dir: Path) -> None:
    with CountingStore(CountingConnector(base_dir / "store")) as store:
        ref = store.ref([1, 2])
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            assert pool.apply(_kinds, (store, ref)) == [
                "CountingStore",
                "CountingConnector",
                "CountingStore",
                "CountingConnector",
            ]


def _kinds(store: Store, ref: Ref[Any]) -> list[str]:
    made = store, store.connector, ref.store, ref.store.connector
    return [type(each).__name__ for each in made]
