"""Wait for several futures, of any stores, as `concurrent.futures` waits for its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from fsexchange.errors import FsExchangeError, MissingObjectError, WaitTimeoutError
from fsexchange.store.future import Future
from fsexchange.store.pending import Pending

T = TypeVar("T")

# As in concurrent.futures, which takes 3 ms to import.
FIRST_COMPLETED, FIRST_EXCEPTION = "FIRST_COMPLETED", "FIRST_EXCEPTION"
ALL_COMPLETED = "ALL_COMPLETED"


class DoneAndNotDoneFutures(NamedTuple):
    """What `wait` returns."""

    done: set[Future[Any]]
    not_done: set[Future[Any]]


def wait(
    futures: Iterable[Future[T]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDoneFutures:
    """Wait until futures are set, and return two sets: `done` and `not_done`.

    As `concurrent.futures.wait`, with the same values of `return_when`. Copies of one future count
    as one. It costs little more for many futures than for one, and for them to be in several
    stores.

    Parameters
    ----------
    timeout:
        Seconds after which to return in any case. None: wait as long as `Future.result` does.
    return_when:
        ALL_COMPLETED, FIRST_COMPLETED, or FIRST_EXCEPTION: when a future is set to an exception, or
        all are set.

    Raises
    ------
    StoreClosedError
        A store is gone, or its owner: see `Future.result`.

    >>> from fsexchange import Store, wait
    >>> with Store() as store:
    ...     futures = [store.future() for _ in range(3)]
    ...     futures[0].set_result("first")
    ...     done, not_done = wait(futures, return_when="FIRST_COMPLETED")
    ...     len(done), len(not_done)
    (1, 2)
    """
    if return_when not in (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION):
        raise ValueError(f"not a condition to return: {return_when!r}")
    every, deadline = _all_of(futures), _deadline(timeout)
    done: set[Future[T]] = set()
    with Pending(timeout=timeout) as pending:
        for future in every:
            pending.add(future)
        while pending:
            found = pending.come(deadline - time.monotonic())
            done.update(found)
            if done and return_when == FIRST_COMPLETED:
                break
            if return_when == FIRST_EXCEPTION and any(map(_failed, found)):
                break
            late = not found and time.monotonic() >= deadline
            if pending:
                pending.check(late=late)
            if late:
                break
    return DoneAndNotDoneFutures(done, every - done)


def as_completed(futures: Iterable[Future[T]], timeout: float | None = None) -> Iterator[Future[T]]:
    """Return an iterator over futures that gives each one when it is set.

    As `concurrent.futures.as_completed`. Copies of one future count as one. The time for each does
    not grow with the number of futures.

    Raises
    ------
    WaitTimeoutError
        By the iterator: `timeout` seconds after the call some futures are not set. It is a
        `TimeoutError`.
    StoreClosedError
        By the iterator: a store is gone, or its owner; see `Future.result`.

    >>> from fsexchange import Store, as_completed
    >>> with Store() as store:
    ...     futures = {store.future(): n for n in range(3)}
    ...     for future, n in futures.items():
    ...         future.set_result(n * n)
    ...     sorted((futures[future], future.result()) for future in as_completed(futures))
    [(0, 0), (1, 1), (2, 4)]
    """
    return _as_completed(_all_of(futures), timeout, _deadline(timeout))


def _as_completed(
    every: set[Future[T]], timeout: float | None, deadline: float
) -> Iterator[Future[T]]:
    total = len(every)
    with Pending(timeout=timeout) as pending:
        while every:
            pending.add(every.pop())  # nothing here keeps a future, and its object, for longer
        left = total
        while pending:
            found = pending.come(deadline - time.monotonic())
            left -= len(found)
            found.reverse()
            if not found and time.monotonic() >= deadline:
                pending.check(late=True)
                raise WaitTimeoutError(
                    f"{left} (of {total}) futures were not set within {timeout:g} s",
                    timeout=timeout,
                )
            while found:
                yield found.pop()
            if pending:
                pending.check()


def _all_of(futures: Iterable[Future[T]]) -> set[Future[T]]:
    every = set(futures)
    for future in every:
        if not isinstance(future, Future):
            raise TypeError(
                f"not an fsexchange.Future: {future!r}; `Store.future` makes them, and "
                "`concurrent.futures` waits for its own"
            )
    return every


def _deadline(timeout: float | None) -> float:
    return float("inf") if timeout is None else time.monotonic() + timeout


def _failed(future: Future[Any]) -> bool:
    try:
        return future.exception(timeout=0) is not None
    except (MissingObjectError, WaitTimeoutError):
        return False  # it was evicted since
    except FsExchangeError:
        return True  # `result` raises this
