"""Submit tasks to an executor over a pool: `submit_to_pools SCENARIO METHOD DIRECTORY`.

The method is one by which multiprocessing starts workers, or "threads".
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import multiprocessing
import operator
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from concurrent.futures import TimeoutError as TimeoutOfFutures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from fsexchange import SerializationError, Store, StoreError
from fsexchange.pools import StoreExecutor

N = 1 << 18  # elements of 8 bytes: 2 MiB, above the threshold


@dataclasses.dataclass
class Result:
    """What only the script defines."""

    array: np.ndarray[Any, Any]
    text: str


class OwnError(Exception):
    """Likewise."""

    def __init__(self, number: int, /) -> None:
        super().__init__(number)
        self.number = number


# ---- tasks --------------------------------------------------------------------------------------


def describe(nested: dict[str, Any], small: Any = None) -> tuple[Any, ...]:
    """Return what a task sees of its arguments, after it has changed them."""
    array = nested["list"][0]
    before = array[0], array[-1], array.sum()
    array[0] = -1
    return (*before, array.flags.writeable, array.shape, small)


def first(array: np.ndarray[Any, Any]) -> float:
    return float(array[0])


def double(array: np.ndarray[Any, Any]) -> Result:
    return Result(array * 2, "doubled")


def enlarge(array: np.ndarray[Any, Any], times: int) -> Any:
    return [array + n for n in range(times)]


def fail(array: np.ndarray[Any, Any], number: int) -> None:
    raise OwnError(number)


def return_a_lock(array: np.ndarray[Any, Any]) -> Any:
    return [array * 2, threading.Lock()]


def die(array: np.ndarray[Any, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def put_and_die(array: np.ndarray[Any, Any]) -> Any:
    class Deadly:
        def __reduce__(self) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

    return [array * 2, Deadly()]


def nap(array: np.ndarray[Any, Any], until: str) -> float:
    while not os.path.exists(until):
        time.sleep(0.001)
    return float(array[0])


def kinds(given: Any, nested: list[Any]) -> tuple[Any, str]:
    return given, type(nested[0]).__name__


def add(one: Any, other: int) -> Any:
    return one + other


def make(n: int, kind: str = "array") -> Any:
    """Return or raise what is not light, in a task whose arguments are."""
    if kind == "error":
        raise OwnError(n)
    if kind == "death":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "lock":
        return [np.full(N, n), threading.Lock()]
    made = {"tuple": (b"", (), b""), "small": {"n": [n]}, "array": np.full(N, n), "list": ["x"] * N}
    return made[kind]


def once(n: int) -> str:
    """Bind the name to another function: later tasks of this worker find that."""
    main: Any = sys.modules["__main__"]  # whose names a spawned worker does not have as globals
    main.once = again
    return "once"


def again(n: int) -> str:
    return "again"


# ---- scenarios ----------------------------------------------------------------------------------


@contextlib.contextmanager
def executor(**options: Any) -> Iterator[StoreExecutor]:
    """Make an executor in the directory, and prove that it leaves nothing there."""
    store = None if method == "threads" else base / "beside"
    with pool() as engine, StoreExecutor(engine, store, **options) as made:
        yield made
    assert os.listdir(base) == [], os.listdir(base)


def pool() -> Executor:
    if method == "threads":
        return ThreadPoolExecutor(2)
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))


def files() -> int:
    """Return how many files of objects there are."""
    found = [path for path in base.glob("*/*/*") if path.is_file()]
    return len([path for path in found if not path.name.startswith(".")])


def nested() -> None:
    """Tasks see ordinary, writable arrays of their own, wherever they are nested."""
    array = np.arange(N, dtype="f8").reshape(2, -1)
    expected = 0.0, N - 1.0, float(array.sum()), True, array.shape
    flat = {"list": [array.ravel()], "more": [array]}
    with executor() as ex:
        for small in (None, {"a": [1, 2]}, np.arange(10), "text"):
            got = ex.submit(describe, flat if method != "threads" else copied(flat), small).result()
            assert got[:3] == expected[:3]
            assert got[3] is True
            assert got[4] == (N,)
            assert (
                np.array_equal(got[5], small) if isinstance(small, np.ndarray) else got[5] == small
            )
        assert files() == 0
        got = ex.submit(describe, small=1, nested=copied(flat)).result()
        assert got[5] == 1
    if method != "threads":
        assert array[0, 0] == 0


def copied(flat: dict[str, Any]) -> dict[str, Any]:
    return {"list": [flat["list"][0].copy()]}


def results() -> None:
    """Objects of the script with large arrays come back, and their files are gone at once."""
    with executor() as ex:
        futures = [ex.submit(double, np.full(N, n)) for n in range(6)]
        for n, future in enumerate(futures):
            result = future.result()
            assert type(result) is Result
            assert (result.array == 2 * n).all()
            assert result.array.flags.writeable
            result.array[:] = 7
        assert files() == 0
        assert {future.result().text for future in as_completed(futures)} == {"doubled"}
        assert not wait(futures).not_done
    assert (futures[0].result().array == 7).all()


def shared() -> None:
    """An array of many tasks is written once, and each task gets it as it was at its submit."""
    array = np.zeros(N)
    gate = str(base.parent / f"{base.name}-gate")
    with executor() as ex:
        blocked = [ex.submit(nap, array, gate) for _ in range(4)]
        same = [ex.submit(first, array) for _ in range(100)]
        assert files() == 1, files()
        array[0] = 1
        changed = [ex.submit(first, array) for _ in range(100)]
        assert files() == 2, files()
        array[N - 1] = 1
        again = [ex.submit(first, array) for _ in range(100)]
        assert files() == 3, files()
        views = ex.submit(first, array[1:])
        Path(gate).touch()
        assert [future.result() for future in (*blocked, *same)] == [0.0] * 104
        assert [future.result() for future in (*changed, *again)] == [1.0] * 200
        assert views.result() == 0.0
        assert files() == 0
    os.unlink(gate)


def total(array: np.ndarray[Any, Any]) -> int:
    return int(array.sum())


def unwritten() -> None:
    """No write to a large array is missed, and it is written again only after one."""
    generator = random.Random(7)
    whole = np.zeros(1 << 20, "i8")
    views = [whole, whole[1:], whole[: 3 << 18], whole[1 << 18 :].view("i4")]
    file = np.memmap(base.parent / f"{base.name}-map", "i8", "w+", shape=1 << 20)
    gate = str(base.parent / f"{base.name}-gate")
    with executor() as ex:
        blocked = [ex.submit(nap, view, gate) for view in (*views, file)]
        blocked += [ex.submit(nap, whole, gate) for _ in range(20)]
        assert files() == 5, files()
        expected, futures = [], []
        for _ in range(120):
            for _ in range(generator.choice([0, 0, 1, 3])):
                whole[generator.choice([0, -1, generator.randrange(1 << 20)])] += 1
            array = generator.choice([*views, file])
            expected.append(int(array.sum()))
            futures.append(ex.submit(total, array))
            if generator.random() < 0.2:
                with open(base.parent / f"{base.name}-map", "r+b") as other:
                    other.seek(generator.randrange(8 << 20))
                    other.write(b"\1")
        for array in views[1:]:  # to prove one of two that overlap hides no write from the other
            for order in ([whole] * 3, [array] * 3 + [whole], [whole] * 3 + [array]):
                whole[1 << 19] += 1
                expected += [int(each.sum()) for each in order]
                futures += [ex.submit(total, each) for each in order]
        Path(gate).touch()
        assert [future.result() for future in futures] == expected
        for n in range(20):  # each at the place of the one before
            array = np.full(1 << 20, n)
            futures = [ex.submit(total, array) for _ in range(3)]
            assert [future.result() for future in futures] == [n << 20] * 3
            del array
        wait(blocked)
        assert files() == 0
    os.unlink(gate)
    os.unlink(base.parent / f"{base.name}-map")


def errors() -> None:
    """An error keeps its type, attributes and remote traceback; the next task works."""
    array = np.ones(N)
    with executor() as ex:
        error = ex.submit(fail, array, 5).exception()
        assert type(error) is OwnError
        assert error.number == 5
        shown = "".join(traceback.format_exception(error))
        assert "in fail" in shown
        if method != "threads":
            error = ex.submit(return_a_lock, array).exception()
            assert isinstance(error, SerializationError), repr(error)
            assert "lock" in str(error)
            error = ex.submit(first, [array, threading.Lock()]).exception()  # type: ignore[arg-type]
            assert isinstance(error, SerializationError), repr(error)
        assert files() == 0
        assert ex.submit(first, array).result() == 1.0


def killed() -> None:
    """A worker that is killed breaks the pool, with the pool's own error, and leaves no file."""
    array = np.ones(N)
    for task in (die, put_and_die):
        with executor() as ex:
            futures = [ex.submit(task, array)]
            with contextlib.suppress(BrokenProcessPool):  # it may be already
                futures += [ex.submit(first, array) for _ in range(5)]
            assert isinstance(futures[0].exception(), BrokenProcessPool)
            for future in futures[1:]:
                assert future.exception() is None or future.exception().__class__ is (
                    BrokenProcessPool
                )
            assert task is put_and_die or files() == 0
            try:
                ex.submit(first, array)
            except BrokenProcessPool:
                pass
            else:
                raise AssertionError("no error")


def cancelled() -> None:
    """Tasks that have not begun can be cancelled; their files go."""
    gate = str(base.parent / f"{base.name}-gate")
    with executor() as ex:
        running = [ex.submit(nap, np.full(N, n), gate) for n in range(2)]
        waiting = [ex.submit(nap, np.full(N, n), gate) for n in range(8)]
        last = waiting[-3:]
        seen: list[Future[float]] = []
        for future in last:
            future.add_done_callback(seen.append)
        while not all(future.running() for future in running):
            time.sleep(0.001)
        assert all(future.cancel() for future in last)
        assert all(future.cancelled() and future.done() for future in last)
        assert seen == last
        assert not running[0].cancel()
        assert method == "threads" or files() == 7
        ex.submit(first, np.zeros(N))
        with contextlib.suppress(CancelledError):
            last[0].result()
        Path(gate).touch()
        assert [future.result() for future in running] == [0.0, 1.0]
        assert [future.result() for future in waiting[:-3]] == [0.0, 1.0, 2.0, 3.0, 4.0]
    os.unlink(gate)


def shut_down() -> None:
    """Whoever shuts it down waits, or not; both leave nothing, and no task comes after."""
    gate = str(base.parent / f"{base.name}-gate")
    with pool() as engine:
        ex = StoreExecutor(engine, base / "beside")
        future = ex.submit(nap, np.ones(N), gate)
        rest = [ex.submit(nap, np.ones(N), gate) for _ in range(20)]
        ex.shutdown(wait=False, cancel_futures=True)
        assert rest[-1].cancelled()
        try:
            ex.submit(first, np.ones(N))
        except RuntimeError as error:
            assert "after shutdown" in str(error)
        else:
            raise AssertionError("no error")
        Path(gate).touch()
        assert future.result() == 1.0
        wait(rest)
        deadline = time.monotonic() + 10
        while os.listdir(base):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        ex.shutdown()
        assert engine.submit(first, np.ones(3)).result() == 1.0  # it is its user's
        ex = StoreExecutor(engine, base / "beside")
        futures = [ex.submit(double, np.ones(N)) for _ in range(4)]
        ex.shutdown()
        assert all(future.done() for future in futures)
        assert os.listdir(base) == []
        assert (futures[0].result().array == 2).all()
    os.unlink(gate)


def shut_down_threads() -> None:
    """Tasks of threads are waited for, or cancelled, as well; it stays their user's pool."""
    go = threading.Event()
    with ThreadPoolExecutor(1) as engine:
        ex = StoreExecutor(engine)
        running, waiting = (ex.submit(go.wait, 9) for _ in range(2))
        while not running.running():
            time.sleep(0.001)
        ex.shutdown(wait=False, cancel_futures=True)
        assert waiting.cancelled()
        assert not running.done()
        threading.Timer(0.1, go.set).start()
        ex.shutdown()
        assert running.done()
        assert engine.submit(len, "abc").result() == 3
        go.clear()
        ex = StoreExecutor(engine)
        tasks = [ex.submit(go.wait, 9) for _ in range(3)]
        # Nobody tells `concurrent.futures.wait` of tasks that a pool drops.
        threading.Timer(0.1, engine.shutdown, (False,), {"cancel_futures": True}).start()
        threading.Timer(0.2, go.set).start()
        ex.shutdown()
        assert [task.cancelled() for task in tasks] == [False, True, True]


def refused() -> None:
    """A task that the engine refuses, while another thread shuts down, is not waited for."""
    submitting, go = threading.Event(), threading.Event()

    class Refusing(Executor):
        def submit(self, *_: Any, **__: Any) -> Any:
            submitting.set()
            go.wait()
            raise RuntimeError("refused")

    seen: list[RuntimeError] = []

    def submit() -> None:
        try:
            ex.submit(first, np.ones(N))
        except RuntimeError as error:
            seen.append(error)

    ex = StoreExecutor(Refusing(), base / "beside")
    submitter = threading.Thread(target=submit)
    submitter.start()
    submitting.wait()
    threading.Timer(0.1, go.set).start()
    ending = threading.Thread(target=ex.shutdown, daemon=True)
    ending.start()
    ending.join(10)
    assert not ending.is_alive()
    submitter.join()
    assert str(seen[0]) == "refused"
    assert os.listdir(base) == []


def failing_end() -> None:
    """A future is set although the directory cannot be removed; a later `shutdown` can."""
    gate = str(base.parent / f"{base.name}-gate")
    with pool() as engine:
        ex = StoreExecutor(engine, base / "beside")
        future = ex.submit(nap, np.ones(N), gate)
        ex.shutdown(wait=False)
        Path(gate).touch()
        assert future.result(10) == 1.0
        with contextlib.suppress(StoreError):  # the test lets the first try of each thread fail
            ex.shutdown()
        ex.shutdown()
        assert os.listdir(base) == []
    os.unlink(gate)


def refs() -> None:
    """An argument that is a Ref arrives as its object, one inside of another object as it is."""
    with Store(base.parent / f"{base.name}-store") as store, executor() as ex:
        ref = store.ref(np.arange(N))
        got, name = ex.submit(kinds, ref, [ref]).result()
        assert np.array_equal(got, np.arange(N))
        assert name == "Ref"
        got, name = ex.submit(kinds, nested=[ref], given=ref).result()
        assert np.array_equal(got, np.arange(N))
        assert name == "Ref"
        assert list(ex.map(first, [ref] * 3)) == [0.0] * 3
        assert list(ex.map(first, [ref] * 3, chunksize=2)) == [0.0] * 3


def mapped() -> None:
    """`map` has the results in order, with chunks and without; so has an iterator that ends."""
    array = np.ones(N)
    with executor() as ex:
        for chunksize in (1, 3, 100):
            got = list(ex.map(add, [array] * 7, range(9), chunksize=chunksize))
            assert [float(each[-1]) for each in got] == [1.0 + n for n in range(7)]
        assert list(ex.map(add, [], [])) == []
        assert files() == 0
        try:
            list(ex.map(time.sleep, [1.0], timeout=0.01))
        except TimeoutOfFutures:  # before Python 3.11 not the builtin one
            pass
        else:
            raise AssertionError("no error")
        chunks = ex.map(add, [array] * 7, range(9), chunksize=2)
        next(chunks)
        del chunks


def full() -> None:
    """On a full file system the task has the error, no file is left, and the next task works."""
    with executor() as ex:
        keep = np.ones(10 << 17)  # 10 MiB of 48
        error = ex.submit(first, [keep + n for n in range(5)]).exception()  # type: ignore[arg-type]
        assert isinstance(error, StoreError), repr(error)
        assert "No space left" in str(error)
        assert files() == 0
        error = ex.submit(enlarge, keep, 5).exception()
        assert isinstance(error, StoreError), repr(error)
        assert "No space left" in str(error)
        assert files() == 0
        assert ex.submit(first, keep).result() == 1.0
        assert (ex.submit(double, np.ones(N)).result().array == 2).all()


def small() -> None:
    """What is small makes no file; what is long but no array goes by file, too."""
    with executor(threshold=1 << 16) as ex:
        assert ex.submit(add, b"x" * 10, b"y").result() == b"x" * 10 + b"y"  # type: ignore[arg-type]
        assert ex.submit(add, b"x" * (1 << 20), b"y").result() == b"x" * (1 << 20) + b"y"  # type: ignore[arg-type]
        assert ex.submit(len, ["text" * 10, *map(str, range(100_000))]).result() == 100_001
        got = ex.submit(add, np.arange(100), 1).result()
        assert np.array_equal(got, np.arange(100) + 1)
        assert got.flags.writeable
        fixed = np.arange(1000)
        fixed.flags.writeable = False
        assert ex.submit(add, fixed, 1).result()[-1] == 1000
        assert files() == 0


def light() -> None:
    """Tasks of a few numbers and texts, for which the engine's future is taken, return anything."""
    with executor() as ex:
        assert [ex.submit(add, n, 1).result() for n in range(3)] == [1, 2, 3]
        assert ex.submit(pow, 2, 3).result() == 8
        assert ex.submit(int, "7", base=8).result() == 7
        assert ex.submit("a-b".split, "-").result() == ["a", "b"]
        assert ex.submit(operator.mul, "x", 8 * N).result() == "x" * 8 * N
        told = [ex.submit(once, n).result() for n in range(8)]
        assert told.count("again") >= 6, told
        assert ex.submit(lambda *args, **more: [*args, *more], 1, n=2).result() == [1, "n"]
        assert ex.submit(make, 1, kind="tuple").result() == (b"", (), b"")
        assert ex.submit(make, 1, kind="small").result() == {"n": [1]}
        assert ex.submit(make, 1, kind="list").result() == ["x"] * N
        assert files() == 0
        futures = [ex.submit(make, n) for n in range(4)]
        seen: list[Any] = []
        for future in futures:
            future.add_done_callback(lambda done: seen.append(done.result()[0]))
        for future in as_completed(futures):
            assert future.exception() is None
            array = future.result()
            assert array is future.result()
            assert array.flags.writeable
        assert [future.result()[-1] for future in futures] == [0, 1, 2, 3]
        unread = [ex.submit(make, n) for n in range(4)]
        assert not wait(unread).not_done

        async def gather() -> list[Any]:
            return await asyncio.gather(*[asyncio.wrap_future(ex.submit(make, n)) for n in (5, 6)])

        assert [array[0] for array in asyncio.run(gather())] == [5, 6]
        error = ex.submit(make, 7, kind="error").exception()
        assert type(error) is OwnError
        assert error.number == 7
        assert "in make" in "".join(traceback.format_exception(error))
        error = ex.submit(make, 7, kind="lock").exception()
        assert isinstance(error, SerializationError), repr(error)
        deadline = time.monotonic() + 10
        while files() or len(seen) < 4:  # callbacks may come after `wait`
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert sorted(seen) == [0, 1, 2, 3]
        left = ex.submit(make, 8)
    assert left.result()[0] == 8
    gate = str(base.parent / f"{base.name}-gate")
    with executor() as ex:
        running = [ex.submit(nap, n, gate) for n in (1, 2)]  # type: ignore[arg-type]
        waiting = [ex.submit(make, n) for n in range(8)]
        assert waiting[-1].cancel()
        assert waiting[-1].cancelled()
        Path(gate).touch()
        assert [type(future.exception()) for future in running] == [TypeError] * 2
        assert [future.result()[0] for future in waiting[:-1]] == list(range(7))
    os.unlink(gate)
    with executor() as ex:
        assert isinstance(ex.submit(make, 9, kind="death").exception(), BrokenProcessPool)


def from_threads() -> None:
    """Threads may share an executor."""
    arrays = [np.full(N, n) for n in range(3)]
    wrong: list[Any] = []

    def submit_many() -> None:
        for n in range(30):
            if ex.submit(first, arrays[n % 3]).result() != n % 3:
                wrong.append(n)

    with executor() as ex:
        threads = [threading.Thread(target=submit_many) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert files() == 0


def by_value() -> None:
    """Lambdas and closures go as well."""
    array = np.ones(N)
    with executor() as ex:
        assert ex.submit(lambda: float(array.sum())).result() == N
        assert ex.submit(lambda x: x + 1, 1).result() == 2


if __name__ == "__main__":
    scenario: Callable[[], None] = globals()[sys.argv[1]]
    method = sys.argv[2]
    base = Path(sys.argv[3])
    base.mkdir(exist_ok=True)
    scenario()
    print("done")
