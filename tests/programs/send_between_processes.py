"""Send arrays between processes by multiprocessing: `send_between_processes METHOD DIRECTORY`."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np

from fsexchange.pools import offload

N = 1 << 18  # elements of 8 bytes: 2 MiB, above the threshold


class Kind(np.ndarray[Any, Any]):
    """No exact array."""


def double(array: Any) -> Any:
    assert np.asarray(array).flags.writeable
    array *= 2
    return array


def ones(n: int) -> Any:
    return np.ones(n)


def by_file(obj: Any) -> bool:
    """Return whether an object of this process goes by a file, by the length of its pickle."""
    pickled = bytes(ForkingPickler.dumps(obj))
    assert np.array_equal(pickle.loads(pickled), obj)  # which removes the file
    return len(pickled) < 10_000


def child_sends_by_file(n: int) -> bool:
    return by_file(np.ones(n))


class Worker(multiprocessing.Process):
    """As users write them."""

    def __init__(self, queue: Any) -> None:
        super().__init__()
        self.queue = queue

    def run(self) -> None:
        self.queue.put(by_file(np.ones(N)))


def tell(queue: Any) -> None:
    queue.put(by_file(np.ones(N)))


def answer(array: Any, queue: Any, pipe: Any) -> None:
    array += 1
    queue.put(array)
    pipe.send([pipe.recv() + 1])


def nothing(array: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def files() -> int:
    found = [path for path in base.glob("*/*/*") if path.is_file()]
    return len([path for path in found if not path.name.startswith(".")])


def main() -> None:
    context: Any = multiprocessing.get_context(method)
    array = np.arange(N, dtype="f8")
    assert not by_file(array)
    with offload("1M", base / "beside"):
        with context.Pool(2) as pool:
            got = pool.map(double, [array + n for n in range(6)])
            assert all((each == 2 * (array + n)).all() for n, each in enumerate(got))
            assert all(each.flags.writeable for each in got)
            assert [len(each) for each in pool.map(ones, [N, 2 * N, 3])] == [N, 2 * N, 3]
            assert pool.apply(child_sends_by_file, (N,))
            kind = pool.apply(double, (array.view(Kind).copy(),))
            assert type(kind) is Kind
            objects = pool.apply(double, (np.array([1] * N, dtype=object),))
            assert objects.sum() == 2 * N
            strided = pool.apply(double, (np.arange(4 * N)[::2],))
            assert np.array_equal(strided, np.arange(4 * N)[::2] * 2)
            assert files() == 0
        queue: Any = context.Queue()
        ours, theirs = context.Pipe()
        process = context.Process(target=answer, args=(array, queue, theirs))
        process.start()
        ours.send(array)
        assert np.array_equal(queue.get(), array + 1)
        assert np.array_equal(ours.recv()[0], array + 1)
        process.join()
        assert process.exitcode == 0
        assert files() == 0
        with offload("16M", base / "other"):
            assert not by_file(array)
            assert by_file(np.ones(1 << 21))
        assert by_file(array)
        dead = context.Process(target=nothing, args=(array,))
        dead.start()
        dead.join()
        for connection in (ours, theirs):
            connection.close()
        queue.close()
        queue.join_thread()
    assert not by_file(array)
    assert os.listdir(base) == []
    assert np.array_equal(pickle.loads(pickle.dumps(array)), array)


def default_context() -> None:
    """Processes of `multiprocessing.Process` itself, and of its subclasses, are told as well."""
    multiprocessing.set_start_method(method, force=True)

    with offload("1M", base / "beside"):
        queue: Any = multiprocessing.Queue()
        for process in (multiprocessing.Process(target=tell, args=(queue,)), Worker(queue)):
            process.start()
            assert queue.get(timeout=30)
            process.join()
        queue.close()
        queue.join_thread()
    assert os.listdir(base) == []


def leave_too_early() -> None:
    """Children that live on after the end send as before."""
    with multiprocessing.get_context(method).Pool(1) as pool:
        with offload("1M", base / "beside"):
            assert pool.apply(ones, (N,)).sum() == N
            with multiprocessing.get_context(method).Pool(1) as inner:
                assert inner.apply(child_sends_by_file, (N,))
                assert pool.apply(double, (np.ones(N),)).sum() == 2 * N
        assert pool.apply(ones, (N,)).sum() == N
    pool = multiprocessing.get_context(method).Pool(1)
    with offload("1M", base / "beside"):
        later = multiprocessing.get_context(method).Pool(1)
        assert later.apply(child_sends_by_file, (N,))
    assert not later.apply(child_sends_by_file, (N,))
    assert later.apply(ones, (N,)).sum() == N
    for each in pool, later:
        each.terminate()
        each.join()
    assert os.listdir(base) == []


if __name__ == "__main__":
    method = sys.argv[1]
    base = Path(sys.argv[2])
    base.mkdir()
    for scenario in (main, leave_too_early, default_context):
        run: Callable[[], None] = scenario
        run()
    print("done")
