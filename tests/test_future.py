"""Future: set once by anyone, waited for by many, and honest when nothing comes."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import resource
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fsexchange import (
    FileConnector,
    FileKey,
    Future,
    KeyExistsError,
    RemoteError,
    Store,
    StoreClosedError,
    WaitTimeoutError,
)

from .processes import fork, python
from .test_watch import instances

CONFIGS: list[dict[str, Any]] = [{}, {"markers": True}, {"write_once": True}]


@pytest.fixture(params=CONFIGS, ids=["rename", "markers", "write_once"])
def store(request: pytest.FixtureRequest, base_dir: Path) -> Any:
    with Store(FileConnector(base_dir / "store", **request.param)) as store:
        yield store


@pytest.mark.parametrize("result", [None, 7, "x", [1, 2], np.ones((300, 1000))])
def test_result_is_what_was_set(store: Store, result: Any) -> None:
    future = store.future()
    copy: Future[Any] = pickle.loads(pickle.dumps(future))
    assert not future.done()
    assert not copy.done()
    copy.set_result(result)
    assert future.done()
    np.testing.assert_equal(future.result(timeout=10), result)
    np.testing.assert_equal(copy.ref.get(), result)
    assert future.exception() is None
    assert future == copy
    assert hash(future) == hash(copy)
    assert len(pickle.dumps(future)) < 500


def test_second_set_is_an_error(store: Store) -> None:
    future = store.future()
    future.set_result(1)
    with pytest.raises(KeyExistsError):
        future.set_result(2)
    with pytest.raises(KeyExistsError):
        future.set_exception(ValueError())
    assert future.result() == 1


class CustomError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    def __reduce__(self) -> Any:
        return CustomError, (self.code, str(self))


class CannotBeUnpickledError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def _fail(future: Future[Any], kind: str) -> None:
    try:
        if kind == "custom":
            raise CustomError(42, "mine")
        if kind == "lock":
            error = ValueError("holds a lock")
            error.lock = threading.Lock()  # type: ignore[attr-defined]
            raise error
        raise CannotBeUnpickledError(1, 2)
    except Exception as error:
        future.set_exception(error)


def test_exception_is_raised_with_its_traceback(store: Store) -> None:
    future = store.future()
    process = multiprocessing.get_context("spawn").Process(target=_fail, args=(future, "custom"))
    process.start()
    error = future.exception(timeout=60)
    assert isinstance(error, CustomError)
    for raises in (future.result, future.ref.get, pickle.loads(pickle.dumps(future)).result):
        with pytest.raises(CustomError) as caught:
            raises()
        assert caught.value.code == 42
        assert "in _fail" in str(caught.value.__cause__)
    process.join()
    process.close()


@pytest.mark.parametrize("kind", ["lock", "unpicklable"])
def test_exception_that_cannot_travel_is_told_by_another(store: Store, kind: str) -> None:
    future = store.future()
    _fail(future, kind)
    with pytest.raises(RemoteError, match="holds a lock|1 and 2") as caught:
        future.result()
    assert "in _fail" in str(caught.value.__cause__)


class StrangeError(Exception):
    """Its `__reduce__` does not what it should."""

    def __init__(self, text: str, reduced: Any) -> None:
        super().__init__(text)
        self.reduced = reduced

    def __reduce__(self) -> Any:
        if isinstance(self.reduced, BaseException):
            raise self.reduced
        return self.reduced


@pytest.mark.parametrize(
    "reduced",
    [
        (int, (3,)),
        (str, ("text",)),
        (type, ("AnError", (Exception,), {})),
        (dict, ()),
        None,
        (),
        "no such name",
        7,
        ValueError("no"),
        RecursionError(),
    ],
    ids=repr,
)
def test_exception_that_becomes_another_object_is_told_by_its_text(
    reduced: Any, shm_dir: Path
) -> None:
    with Store(shm_dir / "store") as store:
        future = store.future()
        future.set_exception(StrangeError("the mesh is torn", reduced))
        for raises in (future.result, future.ref.get, lambda: store.get(future.ref.key)):
            with pytest.raises(RemoteError, match="StrangeError: the mesh is torn"):
                raises()
        assert isinstance(future.exception(), RemoteError)


_HERE = os.getpid()


def _an_error_here(text: str) -> Any:
    return ValueError(text) if os.getpid() == _HERE else text


def test_exception_that_becomes_another_object_elsewhere(shm_dir: Path) -> None:
    """It passes in the process that sets it."""
    with Store(shm_dir / "store") as store:
        future = store.future()
        future.set_exception(StrangeError("the mesh is torn", (_an_error_here, ("torn",))))

        def work() -> None:
            with pytest.raises(RemoteError, match="StrangeError: the mesh is torn"):
                future.result()

        assert os.waitpid(fork(work), 0)[1] == 0


def test_what_is_no_exception_is_refused(store: Store) -> None:
    future = store.future()
    for wrong in ("text", ValueError, None):
        with pytest.raises(TypeError, match="not an exception"):
            future.set_exception(wrong)  # type: ignore[arg-type]
    assert not future.done()


def _race(future: Future[int], start: Any, results: Any) -> None:
    start.wait(60)  # when one of them dies, the others end, too
    try:
        future.set_result(os.getpid())
        results.put(os.getpid())
    except KeyExistsError:
        results.put(None)


def test_exception_of_a_class_unknown_here_still_says_what_it_said(store: Store) -> None:
    future = store.future()
    python("set_an_unknown_exception", store.connector.store_dir, str(future.ref.key))
    with pytest.raises(RemoteError, match="solver diverged at step 9"):
        future.result(timeout=10)
    assert isinstance(future.exception(), RemoteError)


def test_what_is_loaded_stays_good(store: Store) -> None:
    future = store.future()
    future.set_result([1])
    assert future.result() == [1]
    future.ref.evict()
    assert future.result(timeout=0) == [1]


def test_of_racing_processes_one_sets(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        future: Future[int] = store.future()
        start, results = context.Barrier(4), context.Queue()
        racers = [context.Process(target=_race, args=(future, start, results)) for _ in range(4)]
        for racer in racers:
            racer.start()
        set_by = [results.get(timeout=30) for _ in racers]
        for racer in racers:
            racer.join()
            racer.close()
        results.close()
        results.join_thread()
        assert sum(pid is not None for pid in set_by) == 1
        assert future.result() in set_by


def test_many_wait_for_one(store: Store) -> None:
    future: Future[str] = store.future()
    got: list[str] = []
    waiters = [
        threading.Thread(
            target=lambda: got.append(pickle.loads(pickle.dumps(future)).result(timeout=30))
        )
        for _ in range(8)
    ]
    for waiter in waiters:
        waiter.start()
    time.sleep(0.3)
    future.set_result("x")
    for waiter in waiters:
        waiter.join()
    assert got == ["x"] * 8


def test_time_out_tells_who_is_alive(store: Store) -> None:
    with pytest.raises(
        WaitTimeoutError, match=rf"process {os.getpid()} .* is alive.*seems to be alive"
    ):
        store.future().result(timeout=0.05)
    maker = python("promise_and_end", store.connector.store_dir).stdout.split()
    with pytest.raises(WaitTimeoutError, match=f"process {maker[0]} .* made the key, is gone"):
        store.wait(FileKey.parse(maker[1]), timeout=0.05)


def test_store_that_ends_ends_the_wait(store: Store) -> None:
    for pause in (0, 0.3):  # before and after the wait has settled down
        owner = Store(store.connector.store_dir + f"-{pause}")
        future = pickle.loads(pickle.dumps(owner.future()))
        timer = threading.Timer(pause, owner.close)
        timer.start()
        start = time.monotonic()
        with pytest.raises(StoreClosedError):
            future.result(timeout=60)
        assert time.monotonic() - start < 30
        timer.join()


@pytest.mark.slow
def test_waiting_is_idle(store: Store) -> None:
    """It seldom wakes, and takes under a hundredth of a core, as the kernel counts.

    More only where a look that is all a thread does takes more: on a machine that slept, 5 ms.
    """
    future = store.future()
    with pytest.raises(WaitTimeoutError):
        future.result(timeout=1)
    gc.freeze()  # to look through what pytest has collected takes the garbage collector 40 ms
    try:
        before, started = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw, time.thread_time()
        with pytest.raises(WaitTimeoutError):
            future.result(timeout=3)
        took = time.thread_time() - started
        wakes = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
        assert wakes < 60
        if took >= 0.03:
            started = time.thread_time()
            for _ in range(3):
                time.sleep(0.5)
                assert not future.done()
            assert took < 4 * wakes * (time.thread_time() - started) / 3
    finally:
        gc.unfreeze()


def test_result_evicted_is_gone(store: Store) -> None:
    future = store.future()
    future.set_result(1)
    future.ref.evict()
    assert not future.done()
    with pytest.raises(WaitTimeoutError, match=r"evicted again, within 0\.01 s") as caught:
        future.result(timeout=0.01)
    assert caught.value.timeout == 0.01


def test_futures_that_come_one_by_one_share_their_watches(store: Store) -> None:
    """Each brings a connector of its own; a user has 128 inotify instances."""
    futures = [pickle.loads(pickle.dumps(store.future())) for _ in range(200)]
    for n, future in enumerate(futures):
        timer = threading.Timer(0.002, future.set_result, (n,))
        timer.start()
        assert future.result(timeout=60) == n
        timer.join()
    assert instances() <= 4
