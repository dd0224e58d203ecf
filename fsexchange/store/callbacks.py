"""Callbacks of futures: one thread of a process waits for all their futures, and calls them."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from fsexchange.store.pending import Pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from fsexchange.store.future import Future

    Callback = Callable[[Future[Any]], object]

# Seconds to wait for the callbacks of a store that is being closed.
_PATIENCE = 10.0

_log = logging.getLogger("fsexchange")

# Taken again by a signal handler that interrupts its holder: all that this can do is to make one
# more caller, which ends as any other.
_lock = threading.RLock()
_caller: _Caller | None = None


def add(future: Future[Any], callback: Callback) -> None:
    """Call `callback` with a future once it is done, in a thread of its own."""
    global _caller
    with _lock:
        if _caller is None:
            _caller = _Caller()
        _caller.send((future, callback))


def call(future: Future[Any], callback: Callback) -> None:
    """Call it now; its error is logged."""
    try:
        callback(future)
    except Exception:
        _log.exception("exception calling callback for %r", future)


def flush(store_id: str | None = None) -> None:
    """Have the callbacks called of futures that are set by now, in one store or all of them.

    It waits for that, but not for ever. It does nothing within a callback.
    """
    with _lock:
        caller = _caller
        if caller is None or not caller.has(store_id):
            return
        called = threading.Event()
        caller.send(called)
    called.wait(_PATIENCE)


class _Caller:
    """The thread that calls; it ends when no future is left."""

    def __init__(self) -> None:
        self._sent: deque[tuple[Future[Any], Callback] | threading.Event] = deque()
        self._callbacks: dict[Future[Any], list[tuple[Future[Any], Callback]]] = {}
        self._flushes: list[threading.Event] = []
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="fsexchange-callbacks", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            os.close(self._wake)
            raise
        # Exit handlers run in reverse: this one before those of the stores that are there by now.
        atexit.unregister(flush)
        atexit.register(flush)

    def send(self, item: tuple[Future[Any], Callback] | threading.Event) -> None:
        """Pass on a callback, or what to set when the callbacks of all that is done were called."""
        self._sent.append(item)
        os.eventfd_write(self._wake, 1)

    def has(self, store_id: str | None) -> bool:
        """Return whether the calling thread can wait for callbacks of a store; None: of any."""
        if threading.current_thread() is self._thread:
            return False
        sent = [item[0] for item in tuple(self._sent) if isinstance(item, tuple)]
        futures = [*self._callbacks, *sent]
        return any(store_id in (None, future.ref.store.store_id) for future in futures)

    def close(self) -> None:
        """Close what it has open; it was not, or is no more."""
        os.close(self._wake)

    def _run(self) -> None:
        global _caller
        try:
            with Pending(timeout=None, lenient=True) as pending:
                while not self._may_end(pending):
                    self._receive(pending)
                    for future in pending.come(0 if self._flushes else 60, wake=self._wake):
                        self._call(future)
                    pending.check()
                    while self._flushes:
                        self._flushes.pop().set()
        finally:
            with _lock:
                if _caller is self:
                    _caller = None
            self.close()

    def _may_end(self, pending: Pending) -> bool:
        global _caller
        if pending or self._sent:
            return False
        with _lock:
            if self._sent:
                return False
            if _caller is self:
                _caller = None  # from here on another one is made
            return True

    def _receive(self, pending: Pending) -> None:
        try:
            os.eventfd_read(self._wake)  # first: what is sent from here on wakes the next wait
        except BlockingIOError:
            pass
        while self._sent:
            item = self._sent.popleft()
            if isinstance(item, threading.Event):
                self._flushes.append(item)
                pending.hurry()
            elif item[0] in self._callbacks:
                self._callbacks[item[0]].append(item)
            else:
                self._callbacks[item[0]] = [item]
                pending.add(item[0])

    def _call(self, done: Future[Any]) -> None:
        for future, callback in self._callbacks[done]:
            try:
                call(future, callback)
            except BaseException:  # SystemExit would end the thread, and with it other callbacks
                _log.exception("exception calling callback for %r", future)
        del self._callbacks[done]  # only now: `flush` waits for those that are there


def _in_forked_child() -> None:
    """Forget the callbacks of the parent: it calls them itself."""
    global _caller, _lock
    if _caller is not None:
        _caller.close()
    _caller, _lock = None, threading.RLock()


os.register_at_fork(after_in_child=_in_forked_child)
