"""wait and as_completed: as those of `concurrent.futures`, over files that any process sets."""

from __future__ import annotations

import concurrent.futures
import errno
import gc
import os
import pickle
import re
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fsexchange import (
    FileConnector,
    FileKey,
    Future,
    MissingObjectError,
    Store,
    StoreClosedError,
    WaitTimeoutError,
    as_completed,
    wait,
)
from fsexchange.filesystem import files, watch

from .processes import ROOT, command, fork, python, strace
from .test_life import end, owner
from .test_watch import instances


class Library(NamedTuple):
    """Who has futures, and waits for them."""

    make: Callable[[], Any]
    wait: Callable[..., Any]
    as_completed: Callable[..., Any]


@pytest.fixture(params=["renaming", "markers", "between hosts", "sshfs", "no inotify", "standard"])
def library(
    request: pytest.FixtureRequest, shm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Library]:
    """Ours in all ways in which it finds out, and the one whose names and results it has."""
    kind = request.param
    if kind == "standard":
        futures = concurrent.futures
        yield Library(futures.Future, futures.wait, futures.as_completed)
        return
    with Store(FileConnector(shm_dir / "store", markers=kind == "markers")) as store:
        hold = store.connector.directory
        if kind == "between hosts":
            change(monkeypatch, store, network=True, lookup="list")
        elif kind == "sshfs":
            change(monkeypatch, store, network=True, lookup="open")
        elif kind == "no inotify":

            def refused() -> None:
                raise OSError(errno.EMFILE, "inotify_init1")

            monkeypatch.setattr(watch, "take", refused)
        assert hold.policy
        yield Library(store.future, wait, as_completed)


def change(monkeypatch: pytest.MonkeyPatch, store: Store, **policy: Any) -> None:
    """Have a store believe that it is on another kind of file system."""
    hold = store.connector.directory
    monkeypatch.setattr(hold, "_policy", hold.policy._replace(**policy))


@pytest.fixture
def store(base_dir: Path) -> Iterator[Store]:
    with Store(base_dir / "store") as store:
        yield store


def later(seconds: float, *actions: Callable[[], object]) -> threading.Thread:
    """Do these things in another thread, each after a pause."""

    def work() -> None:
        for action in actions:
            time.sleep(seconds)
            action()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


# ---- as the standard library ---------------------------------------------------------------------


def test_wait_for_all(library: Library) -> None:
    futures = [library.make() for _ in range(30)]
    futures[0].set_result(0)
    thread = later(0.002, *(lambda f=f: f.set_result(1) for f in futures[1:]))
    done, not_done = library.wait(futures)
    assert done == set(futures)
    assert not_done == set()
    result = library.wait(futures, timeout=0)
    assert result.done == done
    assert result.not_done == set()
    assert result == (done, set())
    thread.join()


def test_wait_for_none(library: Library) -> None:
    assert library.wait([]) == (set(), set())
    assert list(library.as_completed([])) == []


@pytest.mark.parametrize("timeout", [0, -1, 0.2])
def test_wait_with_a_timeout(timeout: float, library: Library) -> None:
    """What is done is found wherever it stands among what is not (prefect#18960)."""
    futures = [library.make() for _ in range(30)]
    for future in futures[::3]:
        future.set_result(0)
    start = time.monotonic()
    done, not_done = library.wait(iter(futures), timeout)
    assert time.monotonic() - start >= timeout
    assert done == set(futures[::3])
    assert done | not_done == set(futures)


def test_wait_for_the_first(library: Library) -> None:
    futures = [library.make() for _ in range(30)]
    thread = later(0.1, lambda: futures[7].set_result(0))
    first = concurrent.futures.FIRST_COMPLETED
    assert library.wait(futures, None, first).done == {futures[7]}
    assert library.wait(futures, 60, return_when=first).done == {futures[7]}
    assert library.wait(futures, 0.1, "FIRST_COMPLETED").not_done == {*futures} - {futures[7]}
    thread.join()


def test_wait_for_the_first_exception(library: Library) -> None:
    futures = [library.make() for _ in range(5)]
    when = concurrent.futures.FIRST_EXCEPTION
    futures[0].set_result(ValueError("a result"))
    assert library.wait(futures, 0.1, when).done == {futures[0]}
    thread = later(
        0.1, lambda: futures[1].set_result(0), lambda: futures[2].set_exception(ValueError())
    )
    assert library.wait(futures, 60, when).done == set(futures[:3])
    thread.join()
    for future in futures[3:]:
        future.set_result(0)
    assert not library.wait([*futures[:2], *futures[3:]], 60, when).not_done


def test_unknown_conditions_are_refused(library: Library) -> None:
    for futures in ([], [library.make()]):
        if library.wait is wait or futures:  # the standard library does not look at all
            with pytest.raises(ValueError, match="condition"):
                library.wait(futures, 0, "FIRST")


def test_as_completed_gives_each_once_in_the_order_they_come(library: Library) -> None:
    futures = [library.make() for _ in range(30)]
    futures[20].set_result(0)
    order = [*futures[:20:-1], *futures[:20]]
    completed = iter(library.as_completed(futures, timeout=60))
    assert next(completed) == futures[20]
    thread = later(0.01, *(lambda f=f: f.set_result(1) for f in order))
    came = list(completed)
    assert sorted(map(id, came)) == sorted(map(id, order))
    if library.make is concurrent.futures.Future or instances():
        assert came == order  # looks may find several at once
    thread.join()


def test_as_completed_with_a_timeout(library: Library) -> None:
    futures = [library.make() for _ in range(3)]
    futures[1].set_result(1)
    came: list[Any] = []
    start = time.monotonic()
    late = (TimeoutError, concurrent.futures.TimeoutError)  # two before Python 3.11
    with pytest.raises(late, match=r"2 \(of 3\) futures"):
        came.extend(library.as_completed(futures, timeout=0.2))
    assert time.monotonic() - start >= 0.2
    assert came == [futures[1]]
    for future in library.as_completed(futures[1:2], timeout=0):
        came.append(future)
    assert len(came) == 2


def test_what_is_given_twice_counts_once(library: Library) -> None:
    future = library.make()
    future.set_result(1)
    assert list(library.as_completed([future, future])) == [future]
    assert library.wait([future, future]).done == {future}


def test_as_completed_keeps_nothing_that_it_gave(library: Library) -> None:
    """Else all results would be in memory at the end."""
    futures = [library.make() for _ in range(10)]
    for future in futures:
        future.set_result(0)
    given = library.as_completed([futures.pop() for _ in range(10)])
    alive = []
    for future in given:
        alive.append(weakref.ref(future.ref if isinstance(future, Future) else future))
        del future
        gc.collect()
        assert not [ref for ref in alive if ref() is not None]


WAITS: list[Callable[[list[Future[Any]]], object]] = [
    wait,
    lambda futures: list(as_completed(futures)),
]


# ---- of files ------------------------------------------------------------------------------------


def test_what_is_no_future_is_refused(store: Store) -> None:
    """With a word on who waits for it (dask/distributed#797)."""
    for wrong in (store.future().ref, concurrent.futures.Future[int](), 7):
        for use in (wait, as_completed):
            with pytest.raises(TypeError, match="not an fsexchange.Future"):
                use([store.future(), wrong])  # type: ignore[list-item]


def test_copies_of_one_future_count_once(store: Store) -> None:
    futures = [store.future() for _ in range(5)]
    copies = [pickle.loads(pickle.dumps(future)) for future in futures]
    futures[0].set_result(1)
    assert wait([*futures, *copies], 0) == ({copies[0]}, set(futures[1:]))
    assert len(list(as_completed([futures[0], copies[0]]))) == 1


def _set(futures: list[Future[int]]) -> None:
    for n, future in enumerate(futures):
        future.set_result(n)


def test_futures_of_several_stores_set_by_other_processes(
    base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some where the kernel tells, some where it does not, some with markers."""
    stores = [
        Store(base_dir / "one"),
        Store(FileConnector(base_dir / "other", markers=True)),
        Store(base_dir / "network"),
    ]
    change(monkeypatch, stores[2], network=True, lookup="list")
    futures = [store.future() for store in stores for _ in range(20)]
    children = [fork(partial(_set, futures[n::4])) for n in range(4)]
    assert {future.result() for future in as_completed(futures, timeout=60)} == set(range(15))
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert not wait(futures).not_done
    for store in stores:
        store.close()


def test_a_handle_that_is_closed_ends_no_wait_for_others(base_dir: Path) -> None:
    """Two handles of one process on one store, each with a connector of its own."""
    with Store(base_dir / "store") as store:
        handles = [pickle.loads(pickle.dumps(store.future())) for _ in range(2)]
        called: list[object] = []
        for handle in handles:
            handle.add_done_callback(called.append)
        handles[0].ref.store.close()
        time.sleep(1.5)  # more than the second between two checks
        assert handles[1] not in called
        handles[1].set_result("set")
        assert handles[1].result(timeout=10) == "set"
        while handles[1] not in called:
            time.sleep(0.01)


@pytest.mark.parametrize("use", WAITS)
def test_store_that_is_gone(use: Callable[..., object], store: Store) -> None:
    """Before the wait or in the middle of it, one of several."""
    here = store.future()
    for when in ("before", "meanwhile"):
        other = Store(f"{store.store_dir}-{when}")
        attached = pickle.loads(pickle.dumps(other.future()))
        thread = later(0 if when == "before" else 0.5, other.close)
        if when == "before":
            thread.join()
        with pytest.raises(StoreClosedError, match="its owner has closed it"):
            use([here, attached])
        thread.join()
    attached.ref.store.close()
    with pytest.raises(StoreClosedError, match="this connector to"):
        use([here, attached])


@pytest.mark.slow
@pytest.mark.parametrize("use", WAITS)
def test_owner_that_is_gone(use: Callable[..., object], base_dir: Path) -> None:
    process, _ = owner(base_dir / "store")
    with Store(base_dir / "mine") as mine, Store(base_dir / "store") as store:
        futures = [store.future(), mine.future()]
        end(process)
        with pytest.raises(StoreClosedError, match=r"is gone and has not closed it") as caught:
            use(futures)
        assert caught.value.errno == errno.EOWNERDEAD
        assert wait(futures, timeout=2.5).not_done == set(futures)
        with pytest.raises(WaitTimeoutError):
            list(as_completed(futures, timeout=1.5))
        thread = later(1.5, *(lambda f=f: f.set_result(1) for f in futures))
        assert not wait(futures, timeout=60).not_done
        thread.join()
    FileConnector(base_dir / "store").close()


def test_key_of_an_object_that_was_evicted(store: Store) -> None:
    """It was there, and never comes again: an error, as that of `result`."""
    future: Future[int] = Future(store, store.put(1))
    assert wait([future]).done == {future}
    future.ref.evict()
    for use in WAITS:
        with pytest.raises(MissingObjectError, match="was evicted"):
            use([future])


def test_what_is_loaded_is_done(store: Store) -> None:
    future = store.future()
    future.set_result(1)
    future.result()
    future.ref.evict()
    assert future.done()
    assert future.exception() is None
    assert wait([future]).done == {future}


def test_plain_names_can_be_waited_for(store: Store) -> None:
    futures: list[Future[int]] = [Future(store, FileKey(f"result-{n}")) for n in range(3)]
    thread = later(0.1, *(lambda f=f: f.set_result(1) for f in futures))
    assert not wait(futures, 60).not_done
    thread.join()


def test_first_exception_that_cannot_be_read(store: Store) -> None:
    """Whoever asks for its result gets an error, too."""
    future, other = store.future(), store.future()
    store.connector.set(future.ref.key, b"not an object")
    assert wait([future, other], 60, "FIRST_EXCEPTION").done == {future}


def test_result_that_was_evicted_since_is_no_exception(shm_dir: Path) -> None:
    """The waiter is stopped until the object is gone, and then hears that it came."""
    with Store(shm_dir / "store") as store:
        first, second = store.future(), store.future()

        def work() -> None:
            done, _ = wait([first, second], 60, "FIRST_EXCEPTION")
            assert done == {first, second}

        pid = fork(work)
        time.sleep(0.5)
        os.kill(pid, signal.SIGSTOP)
        first.set_result(0)
        first.ref.evict()
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.5)
        second.set_exception(ValueError())
        assert os.waitpid(pid, 0)[1] == 0


# ---- what it costs -------------------------------------------------------------------------------


def test_system_calls_do_not_grow_with_the_number_of_futures(shm_dir: Path) -> None:
    """A future that comes costs the same, however many others are waited for."""
    counts = []
    for n in (300, 600, 1200):
        log = shm_dir / "strace.log"
        tracer = strace("-qq", "-o", str(log))
        python("complete_one_by_one", shm_dir / "store", str(n), before=tracer)
        text = log.read_text()
        inside = text[text.index("fsexchange-begin") : text.index("fsexchange-end")]
        counts.append(len(inside.splitlines()) / n)
    assert counts[2] < counts[0] * 1.3, counts
    assert counts[2] < 16, counts  # about 8 of which set the next


def test_an_event_says_which_future_is_done(shm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the others; that the directory is gone is an event, too."""
    for name in ("_WATCHED_PAUSE", "_CHECK_EVERY"):
        monkeypatch.setattr(f"fsexchange.store.pending.{name}", 600.0)
    looks, real = 0, FileConnector.existing

    def existing(self: FileConnector, keys: Iterable[FileKey]) -> list[FileKey]:
        nonlocal looks
        looks += 1
        return real(self, keys)

    monkeypatch.setattr(FileConnector, "existing", existing)
    with Store(shm_dir / "store") as store:
        futures = [store.future() for _ in range(30)]
        thread = later(0.02, *(partial(future.set_result, 0) for future in futures))
        assert len(list(as_completed(futures))) == 30
        thread.join()
        assert looks <= 4
        _, key = python("promise_and_end", store.store_dir).stdout.split()
        attached: Future[Any] = Future(Store(store.store_dir), FileKey.parse(key))
        thread = later(0.5, store.close)
        start = time.monotonic()
        with pytest.raises(StoreClosedError):
            wait([attached], 60)
        assert time.monotonic() - start < 30
        thread.join()


@pytest.mark.parametrize("n", [1, 3, 1000])
def test_between_hosts_one_look_is_one_listing(
    n: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many futures, and no other look at any of them."""
    change(monkeypatch, store, network=True, lookup="list")
    futures = [store.future() for _ in range(n)]
    listings: list[str] = []
    looks: list[str] = []
    pauses: list[float] = []
    real, real_sleep = files.listing, time.sleep
    monkeypatch.setattr(os, "stat", lambda path, **more: looks.append(path))

    def listing(path: str) -> Iterable[str]:
        listings.append(path)
        return real(path)

    monkeypatch.setattr(files, "listing", listing)

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        real_sleep(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    wait(futures, timeout=1.5)
    monkeypatch.undo()
    assert not looks
    assert len(listings) <= len(pauses) + 3
    assert len(pauses) < 60


def test_pauses_grow_to_50_ms_and_no_further(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, store, network=True, lookup="list")
    now, pauses = [100.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    assert wait([store.future()], timeout=3).not_done
    assert max(pauses) == pytest.approx(0.05)
    assert sum(pause == pytest.approx(0.05) for pause in pauses) > 40


def test_a_wait_has_one_watch_and_gives_it_back(base_dir: Path) -> None:
    stores = [Store(base_dir / str(n)) for n in range(5)]
    futures = [store.future() for store in stores]
    futures[0].set_result(0)
    some = as_completed(futures)
    next(some)
    thread = later(0.3, lambda: futures[1].set_result(0))
    next(some)
    assert instances() == 1
    assert watch._idle == []
    del some
    gc.collect()
    assert len(watch._idle) == 1
    assert not watch._idle[0]._numbers
    thread.join()
    for store in stores:
        store.close()


def test_what_comes_before_the_watch_does_is_found(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event tells of it, so there is another look at once."""
    futures = [store.future() for _ in range(20)]
    real = watch.Watch.add

    def add(self: watch.Watch, folder: str) -> int:
        futures[3].set_result(0)
        return real(self, folder)

    def asleep(self: watch.Watch, seconds: float, *, wake: int = -1) -> list[watch.Event]:
        raise AssertionError(f"slept {seconds} s")

    monkeypatch.setattr(watch.Watch, "add", add)
    monkeypatch.setattr(watch.Watch, "wait", asleep)
    assert next(iter(as_completed(futures))) == futures[3]


def test_futures_that_came_one_by_one_are_looked_at_together(shm_dir: Path) -> None:
    """Each has a connector of its own; one directory is listed once a look."""
    log = shm_dir / "strace.log"
    python("wait_for_many", shm_dir / "store", "500", before=strace("-qq", "-o", str(log)))
    text = log.read_text()
    inside = text[text.index("fsexchange-begin") : text.index("fsexchange-end")]
    assert len(inside.splitlines()) < 100


def test_more_come_than_the_kernel_keeps_events_for(shm_dir: Path) -> None:
    """While nobody reads them: the consumer of `as_completed` is slow."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with Store(shm_dir / "store") as store:
        futures = [store.future() for _ in range(most // 2 + 100)]  # two events for each
        futures[0].set_result(0)
        some = as_completed(futures, timeout=100)
        assert next(some) == futures[0]
        thread = later(0.2, lambda: futures[1].set_result(0))
        assert next(some) == futures[1]  # the others are being watched by now
        thread.join()
        for future in futures[2:]:
            future.set_result(0)
        assert set(some) == set(futures[2:])


def test_child_forked_in_mid_iteration_goes_on_by_itself(store: Store) -> None:
    futures = [store.future() for _ in range(3)]
    futures[0].set_result(0)
    some = as_completed(futures, timeout=60)
    next(some)
    thread = later(0.3, lambda: futures[1].set_result(0))
    assert next(some) == futures[1]  # it is being watched by now
    thread.join()

    def work() -> None:
        assert next(some) == futures[2]

    child = fork(work)
    thread = later(0.5, lambda: futures[2].set_result(0))
    assert next(some) == futures[2]
    assert os.waitpid(child, 0)[1] == 0
    thread.join()


def test_setter_that_is_killed_leaves_the_others(shm_dir: Path) -> None:
    """With a timeout that says how many did not come."""
    with Store(shm_dir / "store") as store:
        futures = [store.future() for _ in range(50)]
        text = ",".join(str(future.ref.key) for future in futures)
        process = subprocess.Popen(command("set_slowly", store.store_dir, text), cwd=ROOT)
        came = []

        def use() -> None:
            for future in as_completed(futures, timeout=5):
                came.append(future)
                if len(came) == 10:
                    process.kill()

        with pytest.raises(WaitTimeoutError) as caught:
            use()
        process.wait()
        left = re.match(r"([0-9]+) \(of 50\)", str(caught.value))
        assert left is not None
        assert int(left[1]) == 50 - len(came) > 0


def test_where_there_is_neither_poll_nor_epoll(shm_dir: Path) -> None:
    python("use_a_store_without_poll", shm_dir / "store")
