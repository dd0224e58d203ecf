"""Callbacks: called in the process that added them, whichever process sets the future."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future as StandardFuture
from pathlib import Path
from typing import Any

import pytest

from fsexchange import FileConnector, Future, Store, StoreClosedError
from fsexchange.store import callbacks

from .processes import fork, python
from .test_life import end, owner
from .test_waiting import change


@pytest.fixture
def store(base_dir: Path) -> Iterator[Store]:
    with Store(base_dir / "store") as store:
        yield store
    over()


def caller() -> threading.Thread | None:
    """Return the thread that calls, if there is one; one that ends may still be there beside it."""
    found = [thread for thread in threading.enumerate() if thread.name == "fsexchange-callbacks"]
    return found[-1] if found else None


def over() -> None:
    """Wait for the thread that calls to end, as it does when no callback is left."""
    deadline = time.monotonic() + 30
    while (thread := caller()) is not None:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert time.monotonic() < deadline


class Calls(list[Any]):
    """A callback that notes what it is called with, and can be waited for."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.more = threading.Semaphore(0)

    def __call__(self, future: Any) -> None:
        self.append(future)
        self.threads.append(threading.current_thread())
        self.more.release()

    def wait(self, n: int) -> None:
        for _ in range(n):
            assert self.more.acquire(timeout=30)


@pytest.mark.parametrize("kind", ["ours", "standard"])
def test_called_with_the_future_at_once_or_when_it_is_set(kind: str, store: Store) -> None:
    """In the order in which they were added, as the standard library does."""
    make: Any = store.future if kind == "ours" else StandardFuture
    calls, order = Calls(), []
    future = make()
    future.add_done_callback(lambda future: order.append(1))
    future.add_done_callback(lambda future: order.append(2))
    future.add_done_callback(calls)
    assert not calls
    future.set_result("x")
    calls.wait(1)
    assert calls[0] is future
    assert calls[0].result(timeout=0) == "x"
    assert order == [1, 2]
    future.add_done_callback(calls)
    assert calls[1] is future
    assert calls.threads[1] is threading.current_thread()
    failed = make()
    failed.add_done_callback(calls)
    failed.set_exception(ValueError("no"))
    calls.wait(2)
    assert isinstance(calls[2].exception(), ValueError)


@pytest.mark.parametrize("kind", ["ours", "standard"])
def test_errors_of_callbacks_are_logged(
    kind: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """With where it was raised (dask/distributed#2277); the other callbacks are called."""
    make: Any = store.future if kind == "ours" else StandardFuture
    calls = Calls()

    def fail(future: Any) -> None:
        raise LookupError("in the callback")

    for _ in range(2):  # when it is set, and at once
        future = make()
        future.add_done_callback(fail)
        future.add_done_callback(calls)
        future.set_result(1)
        calls.wait(1)
        future.add_done_callback(fail)
        future.add_done_callback(calls)
        calls.wait(1)
    assert len(caplog.records) == 4
    assert all("exception calling callback for" in text for text in caplog.messages)
    assert "in fail" in caplog.text
    assert "in the callback" in caplog.text


def test_callback_that_exits_ends_only_itself(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    calls, futures = Calls(), [store.future() for _ in range(3)]
    for future in futures:
        future.add_done_callback(lambda future: os.sys.exit(1))  # type: ignore[attr-defined]
        future.add_done_callback(calls)
    for future in futures:
        future.set_result(1)
    calls.wait(3)
    assert caplog.text.count("SystemExit") >= 3


def test_set_by_another_process(store: Store) -> None:
    calls = Calls()
    futures = [store.future() for _ in range(20)]
    for future in futures:
        future.add_done_callback(calls)

    def work() -> None:
        for n, future in enumerate(futures):
            future.set_result(n)

    child = fork(work)
    calls.wait(20)
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(future.result() for future in calls) == list(range(20))


def test_one_thread_for_all_of_a_process(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends when nothing is left, and the next callback makes another."""
    stores = [Store(base_dir / "one"), Store(base_dir / "other")]
    change(monkeypatch, stores[1], network=True, lookup="list")
    calls = Calls()
    for _ in range(3):
        futures = [store.future() for store in stores for _ in range(50)]
        for future in futures:
            future.add_done_callback(calls)
        assert caller() is not None
        for future in futures:
            future.set_result(1)
        calls.wait(100)
        assert len(set(calls.threads[-100:])) == 1
        over()
    assert len(calls) == 300
    assert callbacks._caller is None
    for store in stores:
        store.close()


def test_copies_of_one_future_are_called_each(store: Store) -> None:
    calls, future = Calls(), store.future()
    copies = [pickle.loads(pickle.dumps(future)) for _ in range(3)]
    for copy in copies:
        copy.add_done_callback(calls)
    future.set_result(1)
    calls.wait(3)
    assert all(a is b for a, b in zip(calls, copies, strict=True))


def test_callbacks_may_add_callbacks_and_wait(store: Store) -> None:
    """And call any verb (dask/distributed#789), also close a store."""
    calls = Calls()
    first, second, third = (store.future() for _ in range(3))

    def chain(future: Future[int]) -> None:
        assert future.result() == 1
        assert future.exception() is None
        second.add_done_callback(lambda future: third.set_result(future.result() + 1))
        with Store(store.store_dir) as attached:
            second.set_result(attached.get(attached.put(2)))

    first.add_done_callback(chain)
    third.add_done_callback(calls)
    first.set_result(1)
    calls.wait(1)
    assert third.result() == 3


def test_closing_a_store_calls_what_is_done_first(base_dir: Path) -> None:
    """With results, not with errors (dask/distributed#5295), however slow the callbacks are."""
    results = []

    def slowly(future: Future[int]) -> None:
        time.sleep(0.01)
        results.append(future.result())

    with Store(base_dir / "store") as store:
        futures = [store.future() for _ in range(20)]
        for future in futures:
            future.add_done_callback(slowly)
        for n, future in enumerate(futures):
            future.set_result(n)
    assert sorted(results) == list(range(20))
    over()


def test_closing_a_store_does_not_wait_for_callbacks_of_others(base_dir: Path) -> None:
    started, release = threading.Event(), threading.Event()

    def block(future: Future[int]) -> None:
        started.set()
        assert release.wait(30)

    with Store(base_dir / "one") as one:
        future = one.future()
        future.add_done_callback(block)
        future.set_result(1)
        assert started.wait(30)
        with Store(base_dir / "other"):
            pass
        release.set()
    over()


@pytest.mark.parametrize("way", ["closed", "killed"])
def test_when_nothing_can_be_set_any_more_they_are_called(way: str, base_dir: Path) -> None:
    """`result` raises at once what it would have raised."""
    process, _ = owner(base_dir / "store")
    calls = Calls()
    attached = Store(base_dir / "store")
    futures = [attached.future() for _ in range(50)]
    for future in futures:
        future.add_done_callback(calls)
    if way == "killed":
        end(process)
    else:
        FileConnector(base_dir / "store").close(clear=True)
    calls.wait(50)
    for future in calls:
        with pytest.raises(StoreClosedError, match="is gone"):
            future.result()
        if way == "killed":
            break  # each looks for a moment
    over()
    attached.close()
    end(process)
    FileConnector(base_dir / "store").close(clear=True)


def test_callback_for_a_store_that_is_gone_is_refused(base_dir: Path) -> None:
    with Store(base_dir / "store") as store:
        attached = pickle.loads(pickle.dumps(store.future()))
    with pytest.raises(StoreClosedError):
        attached.add_done_callback(print)
    assert caller() is None


def test_forked_child_has_no_callbacks(store: Store) -> None:
    """Neither those of its parent nor its thread; it can have its own."""
    calls, future = Calls(), store.future()
    future.add_done_callback(calls)

    def work() -> None:
        assert caller() is None
        mine = store.future()
        mine.add_done_callback(calls)
        mine.set_result(1)
        future.set_result(1)
        calls.wait(1)
        over()
        assert calls == [mine]

    assert os.waitpid(fork(work), 0)[1] == 0
    calls.wait(1)
    assert calls == [future]


def test_child_forked_while_another_thread_adds_callbacks(store: Store) -> None:
    """Whatever lock that thread has."""
    stop = threading.Event()

    def add() -> None:
        while not stop.is_set():
            future = store.future()
            future.add_done_callback(lambda future: None)
            future.set_result(1)

    def work() -> None:
        signal.alarm(30)
        calls, mine = Calls(), store.future()
        mine.add_done_callback(calls)
        mine.set_result(1)
        calls.wait(1)

    thread = threading.Thread(target=add)
    thread.start()
    children = [fork(work) for _ in range(30)]
    stop.set()
    thread.join()
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 30


def test_callbacks_are_added_in_a_signal_handler(shm_dir: Path) -> None:
    """Between any two lines of another one that is being added."""
    python("add_callbacks_in_a_handler", shm_dir / "store", timeout=60)


def test_end_of_a_program_calls_what_is_done(shm_dir: Path) -> None:
    """And is silent about what is not; nothing waits for that."""
    for way in "end", "exit", "raise":
        done = python("end_with_callbacks", shm_dir / "store", way, check=False)
        assert done.stdout == "called with 1\n"
        assert (done.stderr == "") == (way != "raise"), done.stderr
        assert not (shm_dir / "store").exists()


def test_errors_of_looks_do_not_end_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning; the next look succeeds."""
    calls, future = Calls(), store.future()
    real = FileConnector.existing
    fails = 5

    def existing(self: FileConnector, keys: Any) -> Any:
        nonlocal fails
        if fails:
            fails -= 1
            raise self.directory.error(OSError(24, "Too many open files"), "list", "/x")
        return real(self, keys)

    monkeypatch.setattr(FileConnector, "existing", existing)
    monkeypatch.setattr("fsexchange.store.pending._CHECK_EVERY", 0.05)
    with caplog.at_level(logging.WARNING):
        future.add_done_callback(calls)
        future.set_result(1)
        calls.wait(1)
    assert caplog.text.count("Too many open files") == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_its_end_by_an_error_another_one_calls(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("fsexchange.store.pending.Pending.come", fail)
        store.future().add_done_callback(print)
        over()
    calls, future = Calls(), store.future()
    future.add_done_callback(calls)
    future.set_result(1)
    calls.wait(1)
    assert calls == [future]
