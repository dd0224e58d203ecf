"""Submit tasks to the executor of an engine: `submit_to_engines ENGINE DIRECTORY`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from fsexchange import Store
from fsexchange.pools import StoreExecutor

N = 1 << 18  # elements of 8 bytes: 2 MiB, above the threshold


class OwnError(Exception):
    """What only the script defines."""


def change(nested: dict[str, Any]) -> Any:
    array = nested["list"][0]
    assert array.flags.writeable
    array += 1
    return {"sum": float(array.sum()), "array": [array]}


def fail(array: Any) -> None:
    raise OwnError("of the task")


def die_once(array: Any, mark: str) -> float:
    """Kill the worker, the first time."""
    if not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(array[0])


def first(array: Any) -> float:
    return float(array[0])


def full(n: int) -> Any:
    return np.full(N, n)


def fail_lightly(text: str) -> None:
    raise OwnError(text)


@contextlib.contextmanager
def loky() -> Iterator[Executor]:
    from loky import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as executor:
        yield executor


@contextlib.contextmanager
def distributed() -> Iterator[Executor]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client.get_executor(pure=False)


@contextlib.contextmanager
def parsl() -> Iterator[Executor]:
    from parsl import Config, HighThroughputExecutor
    from parsl.concurrent import ParslPoolExecutor
    from parsl.providers import LocalProvider

    workers = HighThroughputExecutor(
        max_workers_per_node=2,
        address="127.0.0.1",
        encrypted=False,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    config = Config(executors=[workers], run_dir=str(base / "runinfo"), usage_tracking=0)
    with ParslPoolExecutor(config) as executor:
        yield executor


@contextlib.contextmanager
def mpi() -> Iterator[Executor]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:
        yield executor


def files() -> int:
    """Return how many files of objects there are."""
    found = [path for path in store_base.glob("*/*/*") if path.is_file()]
    return len([path for path in found if not path.name.startswith(".")])


def main() -> None:
    array = np.arange(N, dtype="f8")
    total = float(array.sum()) + N
    with globals()[engine]() as executor:
        with StoreExecutor(executor, store_base / "beside") as ex:
            futures = [ex.submit(change, {"list": [array], "n": n}) for n in range(8)]
            for future in futures:
                got = future.result()
                assert got["sum"] == total
                assert np.array_equal(got["array"][0], array + 1)
                got["array"][0][:] = 0
            assert files() == 0
            for error in (
                ex.submit(fail, array).exception(),
                ex.submit(fail_lightly, "of the task").exception(),
            ):
                assert type(error).__name__ == "OwnError", repr(error)
                assert "of the task" in str(error)
            assert [ex.submit(full, n).result()[-1] for n in range(3)] == [0, 1, 2]
            assert list(ex.map(pow, range(5), [2] * 5)) == [0, 1, 4, 9, 16]
            with Store(base / "store") as store:
                assert ex.submit(first, store.ref(array)).result() == 0.0
            assert ex.submit(lambda x: float(x[1] * 2), array).result() == 2.0
            assert list(ex.map(first, [array] * 5)) == [0.0] * 5
            assert list(ex.map(first, [array] * 5, chunksize=2)) == [0.0] * 5
            if engine == "distributed":  # its nanny makes a new worker, which does the task again
                assert ex.submit(die_once, array, str(base / "mark")).result() == 0.0
            deadline = time.monotonic() + 10
            while files():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert os.listdir(store_base) == []
        assert executor.submit(first, np.ones(3)).result() == 1.0
    print("done")


if __name__ == "__main__":
    engine = sys.argv[1]
    base = Path(sys.argv[2])
    store_base = base / "stores"
    store_base.mkdir()
    main()
