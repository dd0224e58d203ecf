"""Futures that somebody waits for: which of them are done, by one watch for all of them.

Where the kernel reports each file that appears, its name says which future is done. Elsewhere, and
now and then, one listing of a directory says so for all futures in it. So a future that comes costs
the same however many others are waited for.
"""

from __future__ import annotations

import logging
import os
import select
import time
from typing import TYPE_CHECKING, Any

from fsexchange.connector.keys import FileKey, checked
from fsexchange.errors import FsExchangeError, StoreClosedError, StoreError
from fsexchange.filesystem import watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from fsexchange.connector.connector import FileConnector
    from fsexchange.store.future import Future

# Seconds between two looks where the kernel does not report all, which grow, and the share of the
# time that looks may take.
_FIRST_PAUSE, _LONGEST_PAUSE, _SHARE = 50e-6, 50e-3, 0.1

# The same for what is watched, because some changes cause no event.
_WATCHED_PAUSE, _WATCHED_SHARE = 1.0, 0.01

# Seconds between two checks whether the stores and their owners are still there.
_CHECK_EVERY = 1.0

_log = logging.getLogger("fsexchange")


class _Group:
    """The futures of one store that are not done."""

    def __init__(self, connector: FileConnector, timeout: float | None) -> None:
        self.pending: dict[FileKey, Future[Any]] = {}
        self.places: dict[FileKey, tuple[str, str]] = {}
        """Where the file of a watched one appears: its directory and name."""
        self.new: list[FileKey] = []
        """Nobody has looked at these."""
        self.unwatched: list[FileKey] = []
        """These were not there; after they are watched, another look is needed."""
        self.watched = connector.watched
        self.pause = _FIRST_PAUSE
        self.due = 0.0
        self.failed = False
        self._timeout = timeout
        self.use(connector)

    def use(self, connector: FileConnector) -> None:
        """Look through a connector: each future may have one of its own."""
        self.connector = connector
        self.guard: Callable[[], None] = connector.guard(
            self._timeout, lambda: bool(connector.existing(self.pending))
        )

    def closed(self) -> list[FileKey]:
        """Return the keys of the futures whose connectors were closed."""
        return [key for key, future in self.pending.items() if _is_closed(future)]

    def looked(self, seconds: float) -> None:
        """Decide when to look at all again, after a look that took some seconds."""
        if self.watched:
            pause = max(_WATCHED_PAUSE, seconds / _WATCHED_SHARE)
        else:
            pause = max(self.pause, seconds / _SHARE)
            self.pause = min(2 * self.pause, _LONGEST_PAUSE)
        self.due = time.monotonic() + pause


def _store_of(future: Future[Any]) -> tuple[str, str]:
    """Return what store a future is of: a copy of a directory has the same id."""
    return future.ref.store.store_dir, future.ref.store.store_id


def _is_closed(future: Future[Any]) -> bool:
    try:
        future.ref.store.connector.check_open()
    except StoreClosedError:
        return True
    return False


class Pending:
    """Futures, of any number of stores, that are not yet done. For one thread at a time.

    Parameters
    ----------
    timeout:
        As of `Future.result`: None if the wait may end because the owner of a store is gone.
    lenient:
        A future that nobody can set any more is done, too: its `result` raises at once. Otherwise
        `come` and `check` raise the error. Other errors are logged, and the next look may succeed.
    """

    def __init__(self, *, timeout: float | None, lenient: bool = False) -> None:
        self._timeout = timeout
        self._lenient = lenient
        self._groups: dict[tuple[str, str], _Group] = {}
        self._done: list[Future[Any]] = []
        self._watch: watch.Watch | None = None
        self._numbers: dict[str, int] = {}
        self._folders: dict[int, tuple[_Group, dict[str, FileKey]]] = {}
        self._check_due = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __bool__(self) -> bool:
        """Whether there are futures that `come` has not returned."""
        return bool(self._groups or self._done)

    def add(self, future: Future[Any]) -> None:
        """Wait for one more future, which equals no other one here."""
        store = future.ref.store
        if future.ref.loaded:
            self._done.append(future)
            return
        key = checked(future.ref.key)
        group = self._groups.get(_store_of(future))
        if group is None:
            group = self._groups[_store_of(future)] = _Group(store.connector, self._timeout)
        group.pending[key] = future
        group.new.append(key)

    def close(self) -> None:
        """Stop waiting."""
        self._folders.clear()
        self._numbers.clear()
        if self._watch is not None:
            watch.put_back(self._watch)
            self._watch = None

    def come(self, seconds: float, *, wake: int = -1) -> list[Future[Any]]:
        """Return the futures that are done and were not returned before; wait for the first one.

        It waits at most `seconds`, and no longer when it is time for a `check`, or when the
        descriptor `wake` can be read.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._look()
            rest = min(deadline, self._check_due) - time.monotonic()
            if self._done or rest <= 0:
                break
            self._sleep(rest, wake)
            if wake >= 0:
                break
        done, self._done = self._done, []
        return done

    def check(self, *, late: bool = False) -> None:
        """Once a second, and when it is late, find out whether there is something to wait for."""
        now = time.monotonic()
        if late or now >= self._check_due:
            self._check_due = now + _CHECK_EVERY
            for group in tuple(self._groups.values()):
                self._attempt(group, self._check_group, group)

    def hurry(self) -> None:
        """Have the next `come` look at all futures."""
        for group in self._groups.values():
            group.due = 0.0

    # ---- looking ---------------------------------------------------------------------------------

    def _look(self) -> None:
        """Look at futures that are new or just being watched, and at all when it is time."""
        for group in tuple(self._groups.values()):
            if group.new:
                keys, group.new = group.new, []
                self._attempt(group, self._look_at, group, keys)
                if group.watched:
                    group.unwatched += [key for key in keys if key in group.pending]
            elif group.unwatched:
                keys, group.unwatched = group.unwatched, []
                self._attempt(group, self._start_watching, group, keys)
                # Some may have come before the watch.
                self._attempt(group, self._look_at, group, keys)
            if group.pending and time.monotonic() >= group.due:
                self._attempt(group, self._look_at, group, list(group.pending))

    def _look_at(self, group: _Group, keys: list[FileKey]) -> None:
        start, all_of_them = time.monotonic(), len(keys) == len(group.pending)
        for key in group.connector.existing(keys):
            self._finish(group, key)
        for key in keys:
            if key.nbytes >= 0 and key in group.pending:  # from `put`: it was evicted for good
                if not self._lenient:
                    group.connector.wait(key, 0)
                self._finish(group, key)
        if all_of_them:
            group.looked(time.monotonic() - start)

    def _check_group(self, group: _Group) -> None:
        """Raise what `Future.result` raises where there is nothing to wait for."""
        for key in group.closed():
            group.pending[key].ref.store.connector.check_open()
        group.guard()

    def _end_closed(self, group: _Group) -> bool:
        """Finish the futures whose connectors were closed, and use another one for the others.

        False if there is none.
        """
        closed = group.closed()
        for key in closed:
            self._finish(group, key)
        if closed and group.pending:
            group.use(next(iter(group.pending.values())).ref.store.connector)
        return bool(closed)

    def _finish(self, group: _Group, key: FileKey) -> None:
        """Have `come` return a future, and stop watching its directory if no other needs it."""
        future = group.pending.pop(key, None)
        if future is None:
            return
        self._done.append(future)
        if key in group.places:
            folder, name = group.places.pop(key)
            number = self._numbers.get(folder)
            if number is not None:
                names = self._folders[number][1]
                names.pop(name, None)
                if not names:
                    self._stop_watching(folder)
        if not group.pending:
            del self._groups[_store_of(future)]

    def _attempt(self, group: _Group, action: Callable[..., None], *args: Any) -> None:
        try:
            action(*args)
        except (FsExchangeError, Warning) as error:  # a warning may be turned into an error
            if not self._lenient:
                raise
            if isinstance(error, StoreClosedError):
                if self._end_closed(group):
                    return
                for key in tuple(group.pending):
                    self._finish(group, key)
                return
            group.due = time.monotonic() + _CHECK_EVERY
            if not group.failed:
                group.failed = True
                _log.warning("waiting for futures goes on after an error: %s", error)

    # ---- watching --------------------------------------------------------------------------------

    def _start_watching(self, group: _Group, keys: list[FileKey]) -> None:
        """Watch the directories of some keys, or else look at all the time."""
        try:
            if self._watch is None:
                self._watch = watch.take()
            for key in keys:
                if key not in group.pending:
                    continue
                folder, name = os.path.split(group.connector.sign(key))
                group.places[key] = folder, name
                number = self._numbers.get(folder)
                if number is None:
                    number = self._numbers[folder] = self._watch.add(folder)
                    self._folders[number] = group, {}
                self._folders[number][1][name] = key
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            group.watched, group.due = False, 0.0  # too many watches, or no directory

    def _stop_watching(self, folder: str) -> None:
        number = self._numbers.pop(folder)
        del self._folders[number]
        if self._watch is not None:
            self._watch.remove(number)

    def _sleep(self, seconds: float, wake: int) -> None:
        """Wait until something happens, or it is time to look."""
        due = min((group.due for group in self._groups.values()), default=float("inf"))
        seconds = max(0.0, min(seconds, due - time.monotonic()))
        if self._watch is not None:
            try:
                events = self._watch.wait(seconds, wake=wake)
            except OSError:  # a forked child has given it up
                self._begin_anew()
            else:
                for event in events:
                    self._heed(event)
        elif wake >= 0:
            select.select([wake], [], [], seconds)
        else:
            time.sleep(seconds)

    def _heed(self, event: watch.Event) -> None:
        if event.number < 0:
            self.hurry()  # there were too many events to keep
        elif event.number in self._folders:
            group, names = self._folders[event.number]
            if event.name in names:
                self._finish(group, names[event.name])
            elif not event.name:  # the directory is gone, so the store may be
                group.watched, group.due = False, 0.0
                self._check_due = 0.0

    def _begin_anew(self) -> None:
        self.close()
        for group in self._groups.values():
            group.unwatched = list(group.pending)
