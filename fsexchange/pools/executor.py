"""StoreExecutor: an executor whose large arguments and results go through files."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from fsexchange.connector.connector import FileConnector
from fsexchange.connector.default import new_path
from fsexchange.connector.keys import FileKey
from fsexchange.pools.arguments import Arguments
from fsexchange.pools.futures import LightFuture, TaskFuture
from fsexchange.pools.sizes import nbytes_of
from fsexchange.pools.task import (
    LightTask,
    Message,
    are_light,
    call,
    decode_result,
    encode,
    light_task,
    run,
    run_light,
)
from fsexchange.store.store import Store

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")

T = TypeVar("T")


class StoreExecutor(Executor):
    """An executor that gives tasks to another one, and moves their large arrays by files.

    The other executor may be any of `concurrent.futures`, or have its interface: those of loky,
    `mpi4py.futures`, Dask (`Client.get_executor(pure=False)`) and Parsl. It schedules the tasks and
    stays yours: shut it down after this one. Threads get their arguments as they are.

    Parameters
    ----------
    executor:
        Where tasks run.
    store:
        A `Store` or the path of one, beside which this executor makes a directory for its files.
        Workers on other hosts must see it. None: in `$FSEXCHANGE_DIR`; else in /dev/shm, or in the
        directory for temporary files where that has less than 1 GiB free.
    threshold:
        Arrays and other buffers of so many bytes or more, wherever they are in an argument or
        result, are written to a file, which its reader maps: a number, or a text such as "1M".

    Notes
    -----
    A task gets its arguments as they are when it is submitted; its arrays are its own, and
    writable, except that a view by `np.broadcast_to` stays a read-only one. Several tasks that are
    not done share one file for an array in which nothing has changed between their submits, be it
    a single element, by whatever thread or process: at each submit its elements are compared, or,
    on Linux 6.7 for 4 MiB and more, the kernel proves that nobody has written to them. Files of
    arguments are removed when the last task that needs them is done, cancelled or lost, files of
    results when they have arrived, and all the rest, such as the result of a worker that was
    killed, by `shutdown`.

    An argument that is a `Ref` is given to the task as its object; a `Ref` inside of another object
    arrives as it is. What cannot be pickled or written is an error of the task's future.

    Threads may share an executor.

    >>> import numpy as np
    >>> from concurrent.futures import ProcessPoolExecutor
    >>> with ProcessPoolExecutor(2) as pool, StoreExecutor(pool) as executor:
    ...     executor.submit(np.sum, np.ones((1000, 1000))).result()
    np.float64(1000000.0)
    """

    def __init__(
        self,
        executor: Executor,
        store: Store | str | os.PathLike[str] | None = None,
        *,
        threshold: int | str = 1 << 20,
    ) -> None:
        self._executor = executor
        self._threshold = nbytes_of(threshold)
        # Again by an engine that runs a task within its `submit`, if the task submits another one.
        self._lock = threading.RLock()
        self._pending: set[Future[Any]] = set()
        self._shut_down = False
        self._connector: FileConnector | None = None
        if isinstance(executor, ThreadPoolExecutor):
            return
        markers = isinstance(store, Store) and store.connector.markers
        beside = store.connector.store_dir if isinstance(store, Store) else store
        self._connector = FileConnector(new_path(beside), markers=markers)
        self._arguments = Arguments(self._connector)
        self._config = json.dumps(self._connector.config())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._executor!r})"

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` in a worker; the future has what it returns or raises."""
        connector = self._connector
        if connector is None:
            with self._lock:
                self._check_open()
                in_thread: Future[T] = self._executor.submit(call, fn, args, kwargs)
                self._pending.add(in_thread)
            in_thread.add_done_callback(self._pending.discard)
            return in_thread
        threshold = self._threshold
        if are_light(args, threshold) and (not kwargs or are_light(kwargs.values(), threshold)):
            light = light_task(fn, self._config, threshold)
            if light is not None:
                return self._submit_light(connector, light, args, kwargs)
        future: TaskFuture[T] = TaskFuture()
        with self._lock:
            self._check_open()
            self._pending.add(future)
        needed: list[FileKey] = []
        try:
            try:
                task = self._encode((fn, args, kwargs), connector, needed)
            except Exception as error:  # as of a ProcessPoolExecutor, which pickles in a thread
                self._end(future, needed, partial(future.set_exception, error))
                return future
            inner = self._executor.submit(run, self._config, self._threshold, task)
        except BaseException:
            # Another thread's `shutdown` may wait for it.
            self._end(future, needed, future.finish_cancelling)
            raise
        future.inner = inner
        inner.add_done_callback(partial(self._take, future, connector, needed))
        return future

    def _submit_light(
        self, connector: FileConnector, task: LightTask, args: Any, kwargs: Any
    ) -> Future[Any]:
        with self._lock:
            self._check_open()
            inner = self._executor.submit(run_light, task, args, kwargs)
            light = LightFuture.become(inner, connector)
            if light is not None:
                self._pending.add(light)
            else:
                future: TaskFuture[Any] = TaskFuture()
                future.inner = inner
                self._pending.add(future)
        if light is not None:
            light.add_done_callback(self._forget)
            return light
        inner.add_done_callback(partial(self._take, future, connector, []))
        return future

    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Return the results of `fn` for the items of all iterables, in their order.

        Each task calls `fn` `chunksize` times. `TimeoutError` if a result is not there `timeout`
        seconds after this call.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        items = zip(*iterables)  # noqa: B905  it ends with the shortest, as without chunks
        chunks = iter(lambda: list(islice(items, chunksize)), [])
        return chain.from_iterable(super().map(partial(_call_each, fn), chunks, timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and remove all files when those that were submitted are done.

        Waits for them, unless `wait` is False. With `cancel_futures` those that have not begun are
        cancelled. The other executor is not shut down.
        """
        with self._lock:
            self._shut_down = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            # Not by `concurrent.futures.wait`, which a pool does not tell of tasks that it drops.
            for future in pending:
                with contextlib.suppress(CancelledError):
                    future.exception()
        with self._lock:
            if wait:  # their files are gone; who sets them may still be in their callbacks
                self._pending.difference_update(pending)
            self._close_when_done()

    def _encode(self, task: Any, connector: FileConnector, needed: list[FileKey]) -> Message:
        """Return the message of a task; the keys of its files are `needed`."""

        def write(pieces: Sequence[Any]) -> FileKey:
            needed.append(connector.put(pieces))
            return needed[-1]

        def write_buffer(buffer: memoryview) -> FileKey:
            needed.append(self._arguments.add(buffer))
            return needed[-1]

        return encode(task, self._threshold, write, write_buffer)

    def _take(
        self,
        future: TaskFuture[Any],
        connector: FileConnector,
        needed: list[FileKey],
        inner: Future[Any],
    ) -> None:
        """Give a future what a task has returned or raised."""
        finish: Callable[[], object]
        try:
            finish = partial(future.set_result, decode_result(inner.result(), connector))
        except BaseException as error:
            cancelled = inner.cancelled()
            finish = future.finish_cancelling if cancelled else partial(future.set_exception, error)
        self._end(future, needed, finish)

    def _end(
        self, future: TaskFuture[Any], needed: list[FileKey], finish: Callable[[], object]
    ) -> None:
        """Have a future set by `finish`, and forget its task.

        Whoever waits for the future then finds no files of the task.
        """
        if needed:
            self._arguments.release(needed)
        future.inner = None  # whose callbacks have this future, a cycle that only gc would undo
        try:
            finish()
        finally:  # the end of the directory may fail
            self._forget(future)

    def _forget(self, future: Future[Any]) -> None:
        """Forget a task that is done, or a light one, whose result may be a message yet."""
        # Not `future.result()`, which takes longer than the rest of this.
        if type(future._result) is tuple and type(future) is LightFuture:
            # Loads it. What that raises is for who asks later, not for the engine's thread.
            with contextlib.suppress(BaseException):
                future.exception()
        self._pending.discard(future)
        if self._shut_down:
            with self._lock:
                self._close_when_done()

    def _check_open(self) -> None:
        if self._shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _close_when_done(self) -> None:
        """Remove the directory after the last task; the caller holds the lock.

        So who comes second, of the last task and `shutdown`, returns when it is removed.
        """
        if self._shut_down and not self._pending and self._connector is not None:
            self._arguments.close()
            self._connector.close()


def _call_each(function: Callable[..., T], chunk: Iterable[tuple[Any, ...]]) -> list[T]:
    return [call(function, args, {}) for args in chunk]
