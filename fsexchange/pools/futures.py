"""Futures of tasks, beside the engine's own or in place of them."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from fsexchange.pools.task import Message, decode, discard

if TYPE_CHECKING:
    from fsexchange.connector.connector import FileConnector

T = TypeVar("T")


class TaskFuture(Future[T]):
    """The future of a task that another executor runs, beside that executor's own."""

    inner: Future[Any] | None = None

    def cancel(self) -> bool:
        """Cancel the task if it has not begun; its callback then cancels this future."""
        if self.inner is None or self.done():
            return self.cancelled()
        try:
            return self.inner.cancel()
        except NotImplementedError:  # Parsl's
            return False

    def running(self) -> bool:
        """Return whether the task is being run."""
        return self.inner is not None and self.inner.running() and not self.done()

    def finish_cancelling(self) -> None:
        super().cancel()
        self.set_running_or_notify_cancel()


class LightFuture(Future[T]):
    """The engine's own future of a light task, of which it becomes the class.

    To make and set a second future would take longer than such a task. A result that is not light
    is still a message when the engine sets it: whoever asks first loads it.
    """

    connector: FileConnector

    @classmethod
    def become(cls, future: Future[T], connector: FileConnector) -> Future[T] | None:
        """Return the future as one of this class; None if it has a class of its engine's."""
        if type(future) is not Future:
            return None
        future.__class__ = cls
        future.connector = connector  # type: ignore[attr-defined]
        return future

    def result(self, timeout: float | None = None) -> T:
        got: Any = super().result(timeout)
        return self._loaded(got).result() if type(got) is tuple else got

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = super().exception(timeout)
        if error is None:
            got: Any = super().result()
            if type(got) is tuple:
                return self._loaded(got).exception()
        return error

    def _loaded(self, message: Message) -> Future[T]:
        """Return a future that has what the message becomes."""
        with self.__dict__.setdefault("loading", threading.Lock()):
            loaded: Future[T] | None = self.__dict__.get("loaded")
            if loaded is None:
                loaded = Future()
                # Ctrl-C is an error of who asks, who may ask again: it is not kept.
                try:
                    loaded.set_result(decode(message, lambda: self.connector))
                except Exception as error:
                    loaded.set_exception(error)
                self.__dict__["loaded"] = loaded
                discard(message, self.connector)
        return loaded
