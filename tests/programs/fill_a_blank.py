"""Fill an array by the tasks of a pool: `fill_a_blank SCENARIO METHOD DIRECTORY`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np

from fsexchange import Blank, KeyExistsError, MissingObjectError, Store, StoreError
from fsexchange.pools import StoreExecutor

ROWS, COLUMNS = 64, 40_000  # 20 MB


def fill(out: Blank, start: int, end: int) -> None:
    for row in range(start, end):
        out[row] = np.arange(COLUMNS) + row
    out[start:end, -1] = -1


def fill_or_die(out: Blank, first: Path, start: int) -> None:
    out[start : start + 4] = 99.0
    if start == 8 and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    fill(out, start, start + 4)


def fill_late(out: Blank, gate: Path) -> str:
    while not gate.exists():
        time.sleep(0.001)
    try:
        out[0] = 1
    except KeyExistsError as error:
        return str(error)
    return "no error"


def check(out: Blank) -> None:
    array = out.seal().get()
    expected = np.add.outer(np.arange(ROWS), np.arange(COLUMNS)).astype("f8")
    expected[:, -1] = -1
    assert array.dtype == "f8"
    assert (array == expected).all()
    assert array.flags.writeable


def pool() -> Executor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))


def filled() -> None:
    with Store(path) as store, pool() as executor:
        out = store.blank((ROWS, COLUMNS))
        tasks = [executor.submit(fill, out, n, n + 4) for n in range(0, ROWS, 4)]
        assert [task.result() for task in tasks] == [None] * len(tasks)
        check(out)


def killed() -> None:
    """What a killed task was to write is written again by another one."""
    with Store(path) as store:
        out = store.blank((ROWS, COLUMNS))
        task = partial(fill_or_die, out, path.parent / "first")
        left = set(range(0, ROWS, 4))
        for _ in range(2):
            with pool() as executor:
                tasks = {start: executor.submit(task, start) for start in sorted(left)}
                for start, future in tasks.items():
                    if not isinstance(future.exception(), BrokenProcessPool):
                        left.remove(start)
        assert not left
        check(out)
    os.unlink(path.parent / "first")


def late() -> None:
    """A task that writes after the seal gets an error, and changes nothing."""
    gate = path.parent / "gate"
    with Store(path) as store, pool() as executor:
        out = store.blank((ROWS, COLUMNS))
        future = executor.submit(fill_late, out, gate)
        fill(out, 0, ROWS)
        ref = out.seal()
        gate.touch()
        assert "is sealed" in future.result()
        assert ref.get()[0, 0] == 0
    os.unlink(gate)


def of_an_executor() -> None:
    with Store(path) as store, pool() as engine, StoreExecutor(engine, store) as executor:
        out = store.blank((ROWS, COLUMNS))
        list(executor.map(partial(fill, out), range(0, ROWS, 4), range(4, ROWS + 1, 4)))
        check(out)


def full() -> None:
    """The disk has 40 MiB."""
    with Store(path) as store, pool() as executor:
        try:
            store.blank(100 << 20, "u1")
        except StoreError as error:
            assert "No space left" in str(error), error
        else:
            raise AssertionError("there is no room for it")
        out = store.blank((ROWS, COLUMNS))
        executor.submit(fill, out, 0, ROWS).result()
        check(out)


def full_later() -> None:
    """The disk has 40 MiB, and nothing can be reserved."""
    with Store(path) as store, pool() as executor:
        out = store.blank((200, 1 << 20), "u1")
        futures = [executor.submit(out.__setitem__, n, 1) for n in range(200)]
        errors = [future.exception() for future in futures]
        failed = [error for error in errors if error is not None]
        assert 150 < len(failed) < 180, len(failed)
        assert all(isinstance(error, StoreError) for error in failed)
        assert all("No space left" in str(error) for error in failed)
        out.evict()
        try:
            out[0] = 1
        except MissingObjectError:
            pass
        assert store.get(store.put(b"x" * (1 << 20)))


if __name__ == "__main__":
    method, path = sys.argv[2], Path(sys.argv[3])
    globals()[sys.argv[1]]()
    print("done")
